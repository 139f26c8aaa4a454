"""Changes of a matrix as the ops take them: products of low rank, or full-size matrices.

A change is the product of its factors. It has two of low rank, ``B A``, or a single one, the
full-size matrix D. Each factor is a tensor, or a one-bit code of `sign1`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor

from fedmore.kernels.dispatch import choose

BLOCK = 256


@dataclass(frozen=True)
class SignTensor:
    """A frozen factor stored as sign1 (layout in `kernels/sign1`), decoded whenever it is used.

    Its blocks run along the rows or, with `by_columns`, along the columns. Code that reads only
    shape, dtype and device can treat it as a tensor.
    """

    bits: Tensor
    scales: Tensor
    shape: tuple[int, int]
    block: int = BLOCK
    dtype: torch.dtype = torch.float32
    by_columns: bool = False

    @classmethod
    def of(cls, factor_MN: Tensor, by_columns: bool = False) -> "SignTensor":
        """Encode a factor [M, N]; raises `ValueError` for NaN or Inf."""
        rows, columns = factor_MN.shape
        numbers = factor_MN.T.contiguous() if by_columns else factor_MN
        bits, scales = choose("sign1", factor_MN.device).encode(numbers, BLOCK)
        return cls(bits, scales, (rows, columns), by_columns=by_columns)

    @property
    def device(self) -> torch.device:
        """The device that holds the numbers."""
        return self.bits.device

    def numel(self) -> int:
        """Number of elements of the decoded factor."""
        return math.prod(self.shape)

    def to(self, device: torch.device, dtype: torch.dtype) -> "SignTensor":
        """Return a copy on `device` that decodes to `dtype`."""
        return replace(self, bits=self.bits.to(device), scales=self.scales.to(device), dtype=dtype)

    def dense(self) -> Tensor:
        """Decode to a tensor of `shape` and `dtype`."""
        decode = choose("sign1", self.device).decode
        numbers: Tensor = decode(self.bits, self.scales, self.numel(), self.block)
        rows, columns = self.shape
        there = numbers.view(columns, rows).T if self.by_columns else numbers.view(self.shape)
        return there.to(self.dtype)


Factor = Tensor | SignTensor
LowRank = tuple[Factor, Factor]  # B [out, R], A [R, in]
Change = LowRank | tuple[Factor]  # the same, or D [out, in]
DenseChange = tuple[Tensor, Tensor] | tuple[Tensor]
"""A change whose factors are all decoded."""


def is_low_rank(change: Change) -> TypeGuard[LowRank]:
    """Whether a change is a product of two factors."""
    return len(change) == 2


def decoded(change: Change) -> DenseChange:
    """Return the change with its factors as tensors."""
    if len(change) == 1:
        return (dense(change[0]),)
    return dense(change[0]), dense(change[1])


def applied(change: Change, x_TI: Tensor) -> Tensor:
    """Return the change times every row of `x_TI`, [T, out]; factors are cast to its dtype."""
    for factor in reversed(change):
        x_TI = x_TI @ dense(factor).to(x_TI.dtype).T
    return x_TI


def matrix_of(change: DenseChange) -> Tensor:
    """Return the change as one matrix [out, in]."""
    return change[0] if len(change) == 1 else change[0] @ change[1]


def dense(factor: Factor) -> Tensor:
    """Return the factor as a tensor, decoded if it is stored as sign1."""
    return factor.dense() if isinstance(factor, SignTensor) else factor


def to_train(factors: Iterable[Factor]) -> list[Tensor]:
    """Return all factors if any of them requires a gradient, otherwise an empty list."""
    given = list(factors)
    tensors = [f for f in given if isinstance(f, Tensor)]
    if not any(f.requires_grad for f in tensors):
        return []
    if len(tensors) < len(given):
        raise ValueError("experts stored as sign1 cannot be mixed with experts that are trained")
    return tensors


def version(factor: Factor) -> int:
    """A number that changes whenever the factor is written to in place."""
    return -1 if isinstance(factor, SignTensor) or factor.is_inference() else factor._version


def check_dtype(op: str, *tensors: Tensor) -> None:
    """Raise `ValueError` unless all tensors have one of the dtypes that the Triton forms take."""
    kinds = {tensor.dtype for tensor in tensors}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.bfloat16, torch.float16}:
        given = ", ".join(sorted(map(str, kinds)))
        raise ValueError(
            f"{op} on a GPU takes float32, bfloat16 or float16, all alike; not {given}"
        )
