"""Codecs: how a list of tensors becomes bytes, and back.

A codec is stateless; `error_feedback` wraps one. The layout of each is its tensors one after the
other, in the given order, without padding between them; all numbers are little-endian.

| tag | a tensor of n numbers |
|---|---|
| `fp32` | n float32 |
| `bf16` | n bfloat16 |
| `sign1` | ceil(n / 256) bfloat16 scales, then ceil(n / 8) bytes of signs |

`fedmore.kernels.sign1` fixes the order of the bits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedmore.experts.errors import WireError
from fedmore.kernels.sign1 import cpu as sign1

Shape = Sequence[int]


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
        """`count` numbers, float32 [count], of `size(count)` bytes."""
        ...


@dataclass(frozen=True)
class Cast:
    """Plain numbers of a narrower dtype."""

    tag: str
    dtype: torch.dtype

    def size(self, count: int) -> int:
        """Bytes for a tensor of `count` numbers."""
        return count * self.dtype.itemsize

    def encode_one(self, tensor: Tensor) -> bytes:
        """One tensor's bytes; raises `ValueError` for NaN or Inf."""
        flat = tensor.detach().cpu().to(self.dtype).contiguous().view(-1)
        if not bool(torch.isfinite(flat).all()):
            raise ValueError(f"{self.tag} cannot encode NaN, Inf or what rounds to it")
        return raw(flat)

    def decode_one(self, data: bytes, count: int) -> Tensor:
        """`count` numbers, float32 [count]."""
        return unraw(data, self.dtype).float()[:count]


@dataclass(frozen=True)
class Sign1:
    """One bit per number and a bfloat16 scale per block."""

    tag: str = "sign1"
    block: int = 256

    def size(self, count: int) -> int:
        """Bytes for a tensor of `count` numbers."""
        return 2 * -(-count // self.block) + (count + 7) // 8

    def encode_one(self, tensor: Tensor) -> bytes:
        """One tensor's bytes; raises `ValueError` for NaN or Inf."""
        bits, scales = sign1.encode(tensor.detach().cpu().reshape(-1), self.block)
        return raw(scales) + raw(bits)

    def decode_one(self, data: bytes, count: int) -> Tensor:
        """`count` numbers, float32 [count]."""
        cut = 2 * -(-count // self.block)
        scales, bits = unraw(data[:cut], torch.bfloat16), unraw(data[cut:], torch.uint8)
        return sign1.decode(bits, scales, count, self.block)


CODECS: dict[str, Codec] = {
    codec.tag: codec
    for codec in (Cast("fp32", torch.float32), Cast("bf16", torch.bfloat16), Sign1())
}


def codec_of(tag: str) -> Codec:
    """The codec of a tag; raises `WireError` for one that this version does not know."""
    try:
        return CODECS[tag]
    except KeyError:
        raise WireError(f"unknown codec {tag!r}; known are {', '.join(CODECS)}") from None


def encode(codec: Codec, tensors: Sequence[Tensor]) -> bytes:
    """All tensors in order."""
    return b"".join(codec.encode_one(tensor) for tensor in tensors)


def decode(codec: Codec, data: bytes, shapes: Sequence[Shape]) -> list[Tensor]:
    """The tensors that `data` holds, float32; raises `WireError` unless it fits `shapes` exactly.

    Every number is checked to be finite.
    """
    counts = [math.prod(shape) for shape in shapes]
    expected = sum(map(codec.size, counts))
    if len(data) != expected:
        raise WireError(f"{codec.tag}: {len(data)} bytes where the shapes ask for {expected}")
    tensors, at = [], 0
    for shape, count in zip(shapes, counts, strict=True):
        end = at + codec.size(count)
        tensors.append(codec.decode_one(data[at:end], count).view(*shape))
        at = end
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise WireError(f"{codec.tag}: NaN or Inf in an update")
    return tensors


def raw(tensor: Tensor) -> bytes:
    """The bytes of a contiguous 1-D tensor, little-endian."""
    return bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def unraw(data: bytes, dtype: torch.dtype) -> Tensor:
    """The inverse of `raw`."""
    if not data:  # of numpy's empty arrays torch cannot change the dtype
        return torch.empty(0, dtype=dtype)
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(dtype)
