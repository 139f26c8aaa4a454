"""Codec `sign1`: one bit per number and a bfloat16 scale per block; see `fedmore.kernels.sign1`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.kernels.sign1 import cpu as kernel
from fedmore.strategies.compression import layout


@dataclass(frozen=True)
class Sign1:
    """ceil(n / block) scales, then ceil(n / 8) bytes of signs."""

    tag: str = "sign1"
    block: int = 256

    def size(self, count: int) -> int:
        """Bytes for a tensor of `count` numbers."""
        return 2 * -(-count // self.block) + (count + 7) // 8

    def encode_one(self, tensor: Tensor) -> bytes:
        """One tensor's bytes; raises `ValueError` for NaN or Inf."""
        bits, scales = kernel.encode(tensor.detach().cpu().reshape(-1), self.block)
        return layout.raw(scales) + layout.raw(bits)

    def encode_owing(self, change: Tensor, residual: Tensor, gain: float) -> tuple[bytes, Tensor]:
        """The bytes of ``gain p``, ``p = change + residual``, and ``p`` less what they decode to.

        In one pass; raises `ValueError` for NaN or Inf.
        """
        bits, scales, owed = kernel.encode_with_residual(change, residual, self.block, gain=gain)
        return layout.raw(scales) + layout.raw(bits), owed

    def decode_one(self, data: bytes, count: int) -> Tensor:
        """`count` numbers, float32 [count]; raises `WireError` for a scale that no codec makes."""
        cut = 2 * -(-count // self.block)
        scales = layout.scales(self.tag, data[:cut], torch.bfloat16)
        return kernel.decode(layout.unraw(data[cut:], torch.uint8), scales, count, self.block)
