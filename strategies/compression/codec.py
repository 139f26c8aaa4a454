"""Codecs: how a list of tensors becomes bytes, and back.

A codec is stateless; `error_feedback` and `mirrored` carry what it loses, `policy` chooses one. The
layout of each is its tensors one after the other, in the given order, without padding between
them; all numbers are little-endian.

| tag | a tensor of n numbers | bits a number |
|---|---|---|
| `fp32` | n float32 | 32 |
| `bf16` | n bfloat16 | 16 |
| `int8` | ceil(n / 256) float32 scales, then n bytes, indices of the dynamic map | 8.125 |
| `nf4` | ceil(n / 64) float32 scales, then ceil(n / 2) bytes, NF4 indices, first high | 4.5 |
| `sign1` | ceil(n / 256) bfloat16 scales, then ceil(n / 8) bytes of signs | 1.0625 |
| `bitdelta` | one float32 scale, then ceil(n / 8) bytes of signs; nothing where n = 0 | 1 |
| `bits1`, `bits2`, `bits4` | float32 std and mean, ceil(n b / 8) bytes; nothing where n = 0 | b |

`fedmore.kernels.sign1` fixes the order of the signs, `fedmore.kernels.lowbit` that of the codes.
"""

import math
from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from fedmore.experts.errors import WireError
from fedmore.strategies.compression.bitdelta import BitDelta
from fedmore.strategies.compression.bits import Bits
from fedmore.strategies.compression.blockwise import Blockwise
from fedmore.strategies.compression.cast import Cast
from fedmore.strategies.compression.policy import NAMES, factor_roles, policy_of
from fedmore.strategies.compression.sign1 import Sign1

Shape = Sequence[int]


@runtime_checkable
class Codec(Protocol):
    """Tensors to bytes and back; `tag` names the layout on the wire."""

    @property
    def tag(self) -> str:
        """The name on the wire."""
        ...

    def size(self, count: int) -> int:
        """Bytes for a tensor of `count` numbers."""
        ...

    def encode_one(self, tensor: Tensor) -> bytes:
        """One tensor's bytes; raises `ValueError` for NaN or Inf."""
        ...

    def decode_one(self, data: bytes, count: int) -> Tensor:
        """`count` numbers, float32 [count], of `size(count)` bytes; raises `WireError`."""
        ...


Choice = Codec | Sequence[Codec]
"""One codec for all tensors of a list, or one for each."""

CODECS: dict[str, Codec] = {
    codec.tag: codec
    for codec in (
        Cast("fp32", torch.float32),
        Cast("bf16", torch.bfloat16),
        Blockwise("int8", 8, 256),
        Blockwise("nf4", 4, 64),
        Sign1(),
        BitDelta(),
        Bits(1),
        Bits(2),
        Bits(4),
    )
}


def codec_of(tag: str) -> Codec:
    """The codec of a tag; raises `WireError` for one that is not installed.

    A plugin's codec is imported here. Raises `ConfigError` if that fails.
    """
    if tag in CODECS:
        return CODECS[tag]
    if tag not in NAMES:
        raise WireError(f"unknown codec {tag!r}; known are {NAMES.listed()}")
    return cast("Codec", NAMES.load(tag, lambda made: _fault(made, tag)))


def _fault(made: object, tag: str) -> str:
    if isinstance(made, type) or not isinstance(made, Codec):
        return "is not a codec: an object with tag, size, encode_one and decode_one"
    return "" if made.tag == tag else f"has the tag {made.tag!r}, not its name"


def codecs_of(text: str, shapes: Sequence[Shape], roles: Sequence[str] = ()) -> list[Codec]:
    """A codec for each tensor by the policy that `text` names (`policy`); raises `WireError`.

    `roles` defaults to those of factors in wire order.
    """
    policy = policy_of(text)
    pairs = zip(roles or factor_roles(len(shapes)), shapes, strict=True)
    return [codec_of(policy.tag(role, math.prod(shape))) for role, shape in pairs]


def encode(codec: Choice, tensors: Sequence[Tensor]) -> bytes:
    """All tensors in order."""
    pairs = zip(each(codec, len(tensors)), tensors, strict=True)
    return b"".join(one.encode_one(tensor) for one, tensor in pairs)


def decode(codec: Choice, data: bytes, shapes: Sequence[Shape]) -> list[Tensor]:
    """The tensors that `data` holds, float32; raises `WireError` unless it fits `shapes` exactly.

    Every number is checked to be finite.
    """
    codecs, counts = each(codec, len(shapes)), [math.prod(shape) for shape in shapes]
    sizes = [one.size(count) for one, count in zip(codecs, counts, strict=True)]
    if len(data) != sum(sizes):
        raise WireError(f"{_tags(codecs)}: {len(data)} bytes where the shapes ask for {sum(sizes)}")
    tensors, at = [], 0
    for one, shape, count, size in zip(codecs, shapes, counts, sizes, strict=True):
        tensor = one.decode_one(data[at : at + size], count).view(tuple(shape))
        if not _is_finite(tensor):
            raise WireError(f"{one.tag}: NaN or Inf in an update")
        tensors.append(tensor)
        at += size
    return tensors


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number is; by the least and the largest, which takes no memory."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def each(codec: Choice, count: int) -> Sequence[Codec]:
    """One codec for each of `count` tensors."""
    return codec if isinstance(codec, Sequence) else [codec] * count


def _tags(codecs: Sequence[Codec]) -> str:
    return "+".join(dict.fromkeys(one.tag for one in codecs)) or "no tensors"
