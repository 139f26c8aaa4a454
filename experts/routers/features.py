"""The features from which a learned router decides.

Shape suffixes: L decisions (layers), B sequences, T tokens, D width.
"""

import torch
from torch import Tensor, nn

from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.spec import RouterSpec

EPSILON = 1e-6
SMALLEST = 1e-2


class Features(nn.Module):
    """Normalised and centred hidden states, pooled for decisions above the token level.

    A hidden state is divided by its root mean square, then standardised by the mean and deviation
    over public text (`fit`). Pooling sums the tokens so far and divides by the root of their
    number. So the noise keeps its size and the signal grows, as evidence does. The start token does
    not count.
    """

    origin_LD: Tensor
    scale_LD: Tensor

    def __init__(self, spec: RouterSpec) -> None:
        super().__init__()
        self.granularity, self.prefix_tokens = spec.granularity, spec.prefix_tokens
        self.register_buffer("origin_LD", torch.zeros(spec.layers, spec.width))
        self.register_buffer("scale_LD", torch.ones(spec.layers, spec.width))

    def limits(self, prefix: str) -> dict[str, float]:
        """The largest number of each buffer, for a module that has this one as `prefix`."""
        largest = float(self.origin_LD.shape[1] ** 0.5)  # a vector of root mean square 1 has none
        return {f"{prefix}.origin_LD": largest, f"{prefix}.scale_LD": largest}

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Compute features, float32 [B, T, D]."""
        normed = (normalised(x_BTD) - self.origin_LD[slot]) / self.scale_LD[slot]
        if self.granularity == "token":
            return normed * memory.evidence[..., None]
        limit = self.prefix_tokens if self.granularity == "request" else 0
        sums, counts = memory.running(slot, normed, limit)
        return sums * counts.clamp_min(1).rsqrt()

    @torch.no_grad()
    def fit(self, slot: int, x_ND: Tensor) -> None:
        """Set mean and deviation of one layer from hidden states of public text, [N, D]."""
        normed = normalised(x_ND).double()
        self.origin_LD[slot] = normed.mean(0)
        self.scale_LD[slot] = normed.std(0, correction=0).clamp_min(SMALLEST)


def normalised(x: Tensor) -> Tensor:
    """Divide each vector by its root mean square; float32."""
    x = x.float()
    return x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
