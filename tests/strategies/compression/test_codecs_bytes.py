"""The layouts: golden bytes, sizes, and numbers that no codec has made.

`python tests/strategies/compression/test_codecs_bytes.py` rewrites the golden file.
"""

import json
import math
import struct
from pathlib import Path

import pytest
import torch

from fedmore.experts.errors import WireError
from fedmore.strategies.compression.blockwise import codebook
from fedmore.strategies.compression.codec import CODECS, codec_of, decode, encode
from fedmore.strategies.compression.policy import TAGS

GOLDEN = Path(__file__).parent / "golden" / "codecs.json"
SHAPES = [(3, 5), (0, 4), (2, 135), (1, 1)]


@pytest.fixture(params=TAGS)
def codec(request):
    return codec_of(request.param)


def numbers(shape):
    """Numbers without a generator or libm."""
    values = [((i * 7919) % 1009 - 504) / 64 for i in range(math.prod(shape))]
    return torch.tensor(values).view(shape)


def as_hex(tensors):
    """The numbers as hexadecimal float32."""
    return encode(CODECS["fp32"], tensors).hex()


def made():
    cases = {}
    for tag, codec in CODECS.items():
        data = encode(codec, list(map(numbers, SHAPES)))
        cases[tag] = {"bytes": data.hex(), "decoded": as_hex(decode(codec, data, SHAPES))}
    command = "python tests/strategies/compression/test_codecs_bytes.py"
    return {"made_by": command, "shapes": SHAPES, "codecs": cases}


def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_golden_bytes(codec):
    assert encode(codec, list(map(numbers, SHAPES))).hex() == golden()["codecs"][codec.tag]["bytes"]


def test_golden_numbers(codec):
    """Decoded from the golden bytes to the last bit, since both ends must come to the same."""
    case = golden()["codecs"][codec.tag]
    found = decode(codec, bytes.fromhex(case["bytes"]), SHAPES)
    assert as_hex(found) == case["decoded"]


def test_the_dynamic_map_is_that_of_bitsandbytes_to_its_last_bit_or_so():
    from bitsandbytes.functional import create_dynamic_map

    torch.testing.assert_close(codebook(8), create_dynamic_map(), rtol=2**-22, atol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 255, 256, 257, 512 * 576])
def test_bytes_are_what_the_layout_says(codec, count):
    exact = {
        "fp32": 4 * count,
        "bf16": 2 * count,
        "int8": 4 * math.ceil(count / 256) + count,
        "nf4": 4 * math.ceil(count / 64) + math.ceil(count / 2),
        "sign1": 2 * math.ceil(count / 256) + math.ceil(count / 8),
        "bitdelta": 4 + math.ceil(count / 8),
        "bits1": 8 + math.ceil(count / 8),
        "bits2": 8 + math.ceil(count / 4),
        "bits4": 8 + math.ceil(count / 2),
    }
    data = encode(codec, [torch.ones(count)])
    assert len(data) == codec.size(count) == exact[codec.tag]


def test_sign1_is_30_times_smaller_than_fp32():
    large = [torch.randn(576, 32), torch.randn(32, 1536)]
    sizes = {tag: len(encode(codec_of(tag), large)) for tag in TAGS}
    assert sizes["fp32"] / sizes["sign1"] >= 30
    assert sizes["fp32"] == 2 * sizes["bf16"]
    assert sizes["fp32"] / sizes["nf4"] == pytest.approx(32 / 4.5)


def test_numbers_are_little_endian():
    x = torch.tensor([[1.0, -2.5]])
    assert encode(CODECS["fp32"], [x]).hex() == "0000803f000020c0"
    assert encode(CODECS["bf16"], [x]).hex() == "803f20c0"
    assert encode(CODECS["sign1"], [x]).hex() == "e03f" + "01"
    assert encode(CODECS["bitdelta"], [x]).hex() == "0000e03f" + "01"
    assert (
        encode(CODECS["bits1"], [x]).hex() == "55641e40" + "000040bf" + "01"
    )  # std 2.47, mean -.75
    assert encode(CODECS["int8"], [x]).hex() == "00002040" + "d400"  # scale 2.5
    assert encode(CODECS["nf4"], [x]).hex() == "00002040" + "c0"


def test_bf16_rounds_to_nearest():
    x = torch.randn(100)
    (found,) = decode(CODECS["bf16"], encode(CODECS["bf16"], [x]), [(100,)])
    assert ((found - x).abs() <= x.abs() * 2**-8).all()


@pytest.mark.parametrize("count", [1, 5, 64, 255, 256, 300, 10_000])
def test_decoding_is_what_bitsandbytes_does(count):
    from bitsandbytes import functional as library

    x = torch.randn(count) * torch.rand(count)
    indices, state = library.quantize_blockwise(x, codebook(8), blocksize=256)
    (found,) = decode(CODECS["int8"], encode(CODECS["int8"], [x]), [(count,)])
    assert torch.equal(found, library.dequantize_blockwise(indices, state))
    packed, state = library.quantize_4bit(x, blocksize=64, quant_type="nf4")
    (found,) = decode(CODECS["nf4"], encode(CODECS["nf4"], [x]), [(count,)])
    assert torch.equal(found, library.dequantize_4bit(packed, state).view(-1))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_codebook_enlarges_nothing(bits):
    """So a finite scale cannot make a number that is not."""
    book = codebook(bits)
    assert (book.dtype, book.numel()) == (torch.float32, 2**bits)
    assert book.abs().max() == 1
    assert (book.diff() > 0).all()
    assert (book == 0).sum() == 1


def test_what_rounds_to_infinity_is_refused():
    largest = torch.full((1, 4), torch.finfo(torch.float32).max)
    for tag in ("fp32", "int8", "nf4", "bitdelta"):
        assert torch.equal(
            decode(CODECS[tag], encode(CODECS[tag], [largest]), [(1, 4)])[0], largest
        )
    for tag in ("bf16", "sign1", "bits1", "bits2", "bits4"):
        with pytest.raises(ValueError, match="NaN"):
            encode(CODECS[tag], [largest])
    for tag in TAGS:
        with pytest.raises(ValueError, match="NaN"):
            encode(CODECS[tag], [torch.full((1, 1), 1e300, dtype=torch.float64)])


@pytest.mark.parametrize("tag", ["int8", "nf4", "sign1", "bitdelta", "bits1", "bits2", "bits4"])
@pytest.mark.parametrize(
    ("scale", "says"),
    [(math.nan, "NaN or Inf"), (math.inf, "NaN or Inf"), (-math.inf, "NaN"), (-1.0, "below 0")],
)
def test_a_scale_that_no_codec_makes_is_refused(tag, scale, says):
    """Also where the numbers of its block would come out finite: the index of zero, a sign."""
    head = struct.pack("<f", scale)
    head = head[2:] if tag == "sign1" else head
    data = head + bytes(codec_of(tag).size(3) - len(head))
    with pytest.raises(WireError, match=rf"{tag}: .*{says}"):
        decode(codec_of(tag), data, [(3,)])


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(made(), indent=1) + "\n", encoding="utf-8")
