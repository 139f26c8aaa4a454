"""When two results are the same, and how far one is from another."""

import torch
from torch import Tensor, nn

from fedmore.experts.factors import Factors


def same(left: Factors, right: Factors) -> bool:
    """Whether both change the same modules by the same factors, bit for bit."""
    return set(left) == set(right) and all(
        torch.equal(x, y) for p in left for x, y in zip(left[p], right[p], strict=True)
    )


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Whether both modules hold the same tensors, bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """The root mean square of the error as a part of that of `wanted`, in float64."""
    found, wanted = found.detach().cpu().double(), wanted.detach()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


def product(factors: Factors, path: str) -> Tensor:
    """The change of one module, [out, in], in float64."""
    b, a = factors[path]
    return b.double() @ a.double()
