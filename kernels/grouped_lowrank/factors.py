"""Low-rank factors as the ops take them: tensors, or kept as sign1."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedmore.kernels.dispatch import choose

BLOCK = 256


@dataclass(frozen=True)
class SignTensor:
    """A frozen factor kept as sign1 (layout in `kernels/sign1`), decoded whenever it is used.

    Its blocks follow the rows or, `by_columns`, the columns. Read like a tensor of `dtype` by what
    only looks at shape and place.
    """

    bits: Tensor
    scales: Tensor
    shape: tuple[int, int]
    block: int = BLOCK
    dtype: torch.dtype = torch.float32
    by_columns: bool = False

    @classmethod
    def of(cls, factor_MN: Tensor, by_columns: bool = False) -> "SignTensor":
        """A factor's signs and scales; raises `ValueError` for a number that is not finite."""
        rows, columns = factor_MN.shape
        numbers = factor_MN.T.contiguous() if by_columns else factor_MN
        bits, scales = choose("sign1", factor_MN.device).encode(numbers, BLOCK)
        return cls(bits, scales, (rows, columns), by_columns=by_columns)

    @property
    def device(self) -> torch.device:
        """The device that holds the numbers."""
        return self.bits.device

    def numel(self) -> int:
        """How many numbers it stands for."""
        return math.prod(self.shape)

    def to(self, device: torch.device, dtype: torch.dtype) -> "SignTensor":
        """The same there; its numbers are of `dtype` when they are decoded."""
        return replace(self, bits=self.bits.to(device), scales=self.scales.to(device), dtype=dtype)

    def dense(self) -> Tensor:
        """The numbers, in `dtype`."""
        decode = choose("sign1", self.device).decode
        numbers: Tensor = decode(self.bits, self.scales, self.numel(), self.block)
        rows, columns = self.shape
        there = numbers.view(columns, rows).T if self.by_columns else numbers.view(self.shape)
        return there.to(self.dtype)


Factor = Tensor | SignTensor


def dense(factor: Factor) -> Tensor:
    """A factor's numbers."""
    return factor.dense() if isinstance(factor, SignTensor) else factor


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
    return -1 if isinstance(factor, SignTensor) or factor.is_inference() else factor._version


def check_dtype(op: str, *tensors: Tensor) -> None:
    """Raise `ValueError` for tensors that Triton's forms do not take."""
    kinds = {tensor.dtype for tensor in tensors}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.bfloat16, torch.float16}:
        given = ", ".join(sorted(map(str, kinds)))
        raise ValueError(
            f"{op} on a GPU takes float32, bfloat16 or float16, all alike; not {given}"
        )
