"""Codecs `fp32` and `bf16`: plain numbers, maybe of a narrower dtype."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.strategies.compression.layout import raw, unraw


@dataclass(frozen=True)
class Cast:
    """n numbers of `dtype`, little-endian."""

    tag: str
    dtype: torch.dtype

    def size(self, count: int) -> int:
        """Bytes for a tensor of `count` numbers."""
        return count * self.dtype.itemsize

    def encode_one(self, tensor: Tensor) -> bytes:
        """One tensor's bytes; raises `ValueError` for NaN or Inf."""
        cast = tensor.detach().cpu().to(self.dtype)
        if not bool(torch.isfinite(cast).all()):
            raise ValueError(f"{self.tag} cannot encode NaN, Inf or what rounds to it")
        return raw(cast)

    def decode_one(self, data: bytes, count: int) -> Tensor:
        """`count` numbers, float32 [count]."""
        return unraw(data, self.dtype).float()
