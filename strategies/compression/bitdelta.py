"""Codec `bitdelta`: the sign of every number and one scale for the whole matrix.

BitDelta (arXiv 2402.10193, section 3.1): the change D of a full-size expert becomes
``alpha * sign(D)``. The scale starts at ``mean |D|``, the least-squares one, and is then tuned
(`fedmore.strategies.compression.distil`). A tuned matrix is encoded like any other: the mean
magnitude of ``alpha * sign(D)`` is alpha.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.kernels.sign1 import cpu as kernel
from fedmore.strategies.compression import layout

_BLOCK = 256  # of the kernel that packs the signs; its scales are not used


@dataclass(frozen=True)
class BitDelta:
    """One float32 scale, then ceil(n / 8) bytes of signs as in `sign1`."""

    tag: str = "bitdelta"

    def size(self, count: int) -> int:
        """Bytes for a tensor of `count` numbers; none for an empty one."""
        return 4 + (count + 7) // 8 if count else 0

    def encode_one(self, tensor: Tensor) -> bytes:
        """One tensor's bytes; raises `ValueError` for NaN or Inf."""
        values = layout.flat(self.tag, tensor)
        if not values.numel():
            return b""
        bits, _ = kernel.encode(torch.where(values >= 0, 1.0, -1.0), _BLOCK)
        return layout.raw(mean_magnitude(values)) + layout.raw(bits)

    def decode_one(self, data: bytes, count: int) -> Tensor:
        """`count` numbers, float32 [count]; raises `WireError` for a scale that no codec makes."""
        if not count:
            return torch.empty(0)
        scale = layout.scales(self.tag, data[:4], torch.float32)
        ones = torch.ones(-(-count // _BLOCK), dtype=torch.bfloat16)
        return kernel.decode(layout.unraw(data[4:], torch.uint8), ones, count, _BLOCK).mul_(scale)


def mean_magnitude(values: Tensor) -> Tensor:
    """``mean |v|``, float32 [1], summed in float64: of equal magnitudes it is just that one."""
    return values.abs().mean(dtype=torch.float64).float().view(1)
