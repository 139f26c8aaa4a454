"""Low-rank factors as the ops take them: tensors, or kept as sign1."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.kernels.choose import choose


@dataclass(frozen=True)
class Signs:
    """A frozen factor kept as sign1 (layout in `kernels/sign1`), decoded whenever it is used."""

    bits: Tensor
    scales: Tensor
    shape: tuple[int, int]
    block: int = 256

    def dense(self) -> Tensor:
        """The numbers, float32."""
        decode = choose("sign1", self.bits.device).decode
        numbers: Tensor = decode(self.bits, self.scales, math.prod(self.shape), self.block)
        return numbers.view(self.shape)


Factor = Tensor | Signs


def dense(factor: Factor) -> Tensor:
    """A factor's numbers."""
    return factor.dense() if isinstance(factor, Signs) else factor


def to_train(factors: Iterable[Factor]) -> list[Tensor]:
    """The factors if any of them is to have a gradient, else none."""
    given = list(factors)
    tensors = [f for f in given if isinstance(f, Tensor)]
    if not any(f.requires_grad for f in tensors):
        return []
    if len(tensors) < len(given):
        raise ValueError("experts kept as sign1 cannot be mixed with experts that are trained")
    return tensors


def version(factor: Factor) -> int:
    """Changes whenever a factor is written to."""
    return -1 if isinstance(factor, Signs) or factor.is_inference() else factor._version


def check_dtype(op: str, *tensors: Tensor) -> None:
    """Raise `ValueError` for tensors that Triton's forms do not take."""
    kinds = {tensor.dtype for tensor in tensors}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.bfloat16, torch.float16}:
        given = ", ".join(sorted(map(str, kinds)))
        raise ValueError(
            f"{op} on a GPU takes float32, bfloat16 or float16, all alike; not {given}"
        )
