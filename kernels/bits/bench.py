"""bits against the same written with torch's own operators."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fedmore.kernels.bench import Result, compare
from fedmore.kernels.bits import cpu, reference
from fedmore.kernels.bits.codebooks import codes


def results(quick: bool) -> Iterator[Result]:
    """Forward and backward of one matrix, 1, 2 and 4 bits."""
    rows, columns = (256, 256) if quick else (1536, 576)
    for bits in (1, 2, 4):
        yield _quantise(rows, columns, bits, 5 if quick else 15)


def _quantise(rows: int, columns: int, bits: int, repeats: int) -> Result:
    weight, grad = torch.randn(rows, columns).requires_grad_(), torch.randn(rows, columns)
    return compare(
        f"bits quantise, {bits} bit",
        f"{rows} x {columns} float32, forward and backward",
        lambda: torch.autograd.grad(cpu.quantise(weight, bits), weight, grad),
        lambda: torch.autograd.grad(by_operators(weight, bits), weight, grad),
        opponent_name="straight through by torch operators",
        verify=lambda: equal(weight, grad, bits),
        repeats=repeats,
    )


def by_operators(weight: Tensor, bits: int) -> Tensor:
    """The obvious way: autograd through mean and std, distances to all codes."""
    mean, std = weight.mean(), weight.std()
    z = (weight - mean) / (std + 1e-5)
    levels = torch.tensor(codes(bits))
    nearest = levels[(z.detach()[..., None] - levels).abs().argmin(-1)]
    return (z + (nearest - z).detach()) * std + mean


def equal(weight: Tensor, grad: Tensor, bits: int) -> bool:
    """Value and gradient against the specification in float64."""
    exact = weight.detach().double().requires_grad_()
    value = reference.quantise(exact, bits)
    (expected,) = torch.autograd.grad(value, exact, grad.double())
    ours = cpu.quantise(weight, bits)
    (got,) = torch.autograd.grad(ours, weight, grad)
    off = (ours.double() - value).abs() > 1e-4  # on a border of two cells
    return float(off.float().mean()) < 1e-4 and float((got - expected).norm()) < 1e-4 * float(
        expected.norm()
    )
