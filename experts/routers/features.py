"""What a learned router decides from.

Shape suffixes: L decisions (layers), B sequences, T tokens, D width.
"""

import torch
from torch import Tensor, nn

from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.spec import RouterSpec

EPSILON = 1e-6
SMALLEST = 1e-2


class Features(nn.Module):
    """Hidden states, normalised and centred; at the levels above the token, pooled.

    A hidden state is divided by its root mean square, then standardised by mean and deviation over
    public text (`fit`). Pooled, it is the sum over the tokens so far divided by the root of their
    number: the noise stays the same size and the signal grows, as evidence does. The start token
    is no evidence.
    """

    origin_LD: Tensor
    scale_LD: Tensor

    def __init__(self, spec: RouterSpec) -> None:
        super().__init__()
        self.level, self.prefix = spec.level, spec.prefix
        self.register_buffer("origin_LD", torch.zeros(spec.layers, spec.width))
        self.register_buffer("scale_LD", torch.ones(spec.layers, spec.width))

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Features [B, T, D], float32."""
        normed = (normalised(x_BTD) - self.origin_LD[slot]) / self.scale_LD[slot]
        if self.level == "token":
            return normed * memory.evidence[..., None]
        limit = self.prefix if self.level == "request" else 0
        sums, counts = memory.running(slot, normed, limit)
        return sums * counts.clamp_min(1).rsqrt()

    @torch.no_grad()
    def fit(self, slot: int, x_ND: Tensor) -> None:
        """Mean and deviation of one layer's hidden states over public text."""
        normed = normalised(x_ND).double()
        self.origin_LD[slot] = normed.mean(0)
        self.scale_LD[slot] = normed.std(0, correction=0).clamp_min(SMALLEST)


def normalised(x: Tensor) -> Tensor:
    """Each vector divided by its root mean square, float32."""
    x = x.float()
    return x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
