"""Codecs `bits1`, `bits2`, `bits4`: weights trained as such numbers (`fedmore.kernels.lowbit`).

Unlike the others they are no approximation of what they are given: what they decode to is what the
training's forward pass used. So they carry factors as a whole, not changes, and what is left over
(latent numbers less the weights in use) is the optimiser's, not owed to anybody.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedmore.experts.errors import WireError
from fedmore.kernels.determinism import one_thread
from fedmore.kernels.lowbit import cpu as kernel
from fedmore.strategies.compression import layout


@dataclass(frozen=True)
class Bits:
    """float32 standard deviation, float32 mean, then ceil(n bits / 8) bytes of codes."""

    bits: Literal[1, 2, 4]

    @property
    def tag(self) -> str:
        """The name on the wire."""
        return f"bits{self.bits}"

    def size(self, count: int) -> int:
        """Bytes for a tensor of `count` numbers."""
        return 8 + (count * self.bits + 7) // 8 if count else 0

    def encode_one(self, tensor: Tensor) -> bytes:
        """One tensor's bytes; raises `ValueError` for NaN or Inf."""
        values = layout.flat(self.tag, tensor)
        if not values.numel():
            return b""
        with one_thread():
            coded = kernel.encode(values, self.bits)
        return layout.raw(torch.stack([coded.std, coded.mean])) + layout.raw(coded.packed)

    def decode_one(self, data: bytes, count: int) -> Tensor:
        """`count` numbers, float32 [count]; raises `WireError` for statistics of no numbers."""
        if not count:
            return torch.empty(0)
        (std,) = layout.scales(self.tag, data[:4], torch.float32)
        (mean,) = layout.unraw(data[4:8], torch.float32)
        if not bool(torch.isfinite(mean)):
            raise WireError(f"{self.tag}: a mean is NaN or Inf, so its matrix would be too")
        packed = layout.unraw(data[8:], torch.uint8)
        return kernel.decode(kernel.Coded(packed, mean, std, (count,), self.bits, kernel.BOOK))
