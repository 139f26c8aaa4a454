"""Compares lowbit with the same computation by torch's own operators."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fedmore.kernels.benchmarking.comparison import Result, compare
from fedmore.kernels.dispatch import choose
from fedmore.kernels.lowbit import reference
from fedmore.kernels.lowbit.codebooks import codes

QUICK, FULL = (256, 256), (1536, 576)


def results(quick: bool, device: torch.device) -> Iterator[Result]:
    """Forward and backward pass of one matrix at 1, 2 and 4 bits."""
    shape = QUICK if quick else FULL
    for bits in (1, 2, 4):
        weight, grad = torch.randn(shape).to(device).requires_grad_(), torch.randn(shape).to(device)
        yield _quantise(weight, grad, bits, 5 if quick else 15)


def _quantise(weight: Tensor, grad: Tensor, bits: int, repeats: int) -> Result:
    form = choose("lowbit", weight.device)
    rows, columns = weight.shape
    return compare(
        f"lowbit quantise, {bits} bit",
        f"{rows} x {columns} float32, forward and backward",
        lambda: torch.autograd.grad(form.quantise(weight, bits), weight, grad),
        lambda: torch.autograd.grad(by_operators(weight, bits), weight, grad),
        opponent_name="straight through by torch operators",
        verify=lambda: equal(weight, grad, bits),
        repeats=repeats,
    )


def by_operators(weight: Tensor, bits: int) -> Tensor:
    """Quantise the obvious way: distances to all codes, autograd through mean and std."""
    mean, std = weight.mean(), weight.std()
    z = (weight - mean) / (std + 1e-5)
    levels = torch.tensor(codes(bits), device=weight.device)
    nearest = levels[(z.detach()[..., None] - levels).abs().argmin(-1)]
    return (z + (nearest - z).detach()) * std + mean


def equal(weight: Tensor, grad: Tensor, bits: int) -> bool:
    """Whether value and gradient agree with the specification in float64."""
    exact = weight.detach().cpu().double().requires_grad_()
    value = reference.quantise(exact, bits)
    (expected,) = torch.autograd.grad(value, exact, grad.cpu().double())
    ours = choose("lowbit", weight.device).quantise(weight, bits)
    (got,) = torch.autograd.grad(ours, weight, grad)
    off = (ours.cpu().double() - value).abs() > 1e-4  # numbers on the border of two cells
    error = float((got.cpu() - expected).norm() / expected.norm())
    return float(off.float().mean()) < 1e-4 and error < 1e-4
