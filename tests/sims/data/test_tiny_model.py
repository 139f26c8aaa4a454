import pytest

from fedmore.sims.data.tiny_model import byte_tokenizer, make_tiny_base


@pytest.mark.parametrize("text", ["plain", "Olá, ñ 漢 🙂", "a\n\tb  c"])
def test_a_token_is_a_byte(text):
    tokenizer = byte_tokenizer()
    tokens = tokenizer(text)["input_ids"]
    assert len(tokens) == len(text.encode())
    assert tokenizer.decode(tokens) == text


def test_the_seed_decides_the_weights(tmp_path):
    weights = [
        (make_tiny_base(tmp_path / str(i), seed) / "model.safetensors").read_bytes()
        for i, seed in enumerate((0, 0, 1))
    ]
    assert weights[0] == weights[1] != weights[2]
