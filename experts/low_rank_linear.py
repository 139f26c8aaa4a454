"""Low-rank changes over a frozen model, whose weights threads may share."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedmore.experts.factors import Factors
from fedmore.experts.spec import Scale, TargetModule, scale_at
from fedmore.kernels.dispatch import choose


class LowRankLinear(nn.Module):
    """``y = W x + B_f A_f x + scale B A x``; `W` and the pair f are frozen, A and B are trained.

    With `bits`, A and B are quantised to that width in every forward pass
    (`fedmore.kernels.lowbit`), and the latent numbers behind them are trained. With `prefix` only
    the first directions of A and B are used, and so only they have a gradient.
    """

    def __init__(self, base: nn.Module, frozen: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.base = base
        self.frozen = frozen
        self.scale = 0.0
        self.prefix: int | None = None
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        self._used: Callable[[Tensor], Tensor] = _as_is

    def trainable(self, b: Tensor, a: Tensor, scale: float, bits: int = 0) -> None:
        """Add a trainable pair, a copy of `b` and `a`; `bits` 0 means no quantisation."""
        self.lora_A, self.lora_B = nn.Parameter(a.clone()), nn.Parameter(b.clone())
        self.scale = scale
        if bits:
            self._used = functools.partial(choose("lowbit", a.device).quantise, bits=bits)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the changed layer to x [..., in]; factors are cast to x's dtype."""
        rows = x.flatten(0, -2)
        y: Tensor = self.base(rows)
        # In place on the fresh y, which saves writing and reading a second [rows, out] tensor.
        if self.frozen is not None and self.frozen[1].shape[0]:
            b, a = self.frozen
            y.addmm_(rows @ a.T.to(x.dtype), b.T.to(x.dtype))
        if self.lora_A is not None and self.lora_B is not None:
            b, a = self._used(self.lora_B)[:, : self.prefix], self._used(self.lora_A)[: self.prefix]
            y.addmm_(rows @ a.T.to(x.dtype), (self.scale * b.T).to(x.dtype))
        return y.view(*x.shape[:-1], y.shape[-1])


def _as_is(factor: Tensor) -> Tensor:
    return factor


def share(model: nn.Module) -> Any:
    """Copy the module tree over the same parameters and buffers.

    Layers of one copy can be replaced without changing the others, and no weight is stored twice.
    """
    kept = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in kept})


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the submodule at `path` by `module`."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def overlay(
    model: nn.Module, frozen: Factors | None, sites: Sequence[TargetModule]
) -> dict[str, LowRankLinear]:
    """Wrap every target module of `model` in place, with the frozen change if one is given."""
    layers = {}
    for site in sites:
        pair = None if frozen is None else frozen[site.path]
        layers[site.path] = _wrap(model, site.path, pair)
    return layers


def _wrap(model: nn.Module, path: str, pair: tuple[Tensor, Tensor] | None) -> LowRankLinear:
    linear = model.get_submodule(path)
    device = next(linear.parameters()).device
    wrapped = LowRankLinear(linear, pair and (pair[0].to(device), pair[1].to(device)))
    replace(model, path, wrapped)
    return wrapped


def with_change(model: nn.Module, factors: Factors) -> Any:
    """Copy `model`, sharing its weights, with a frozen low-rank change in it."""
    copied = share(model)
    for path, pair in factors.items():
        _wrap(copied, path, pair)
    return copied


def combine(terms: Sequence[tuple[Factors, Scale]]) -> Factors:
    """Stack several changes with their weights into one; the sum is exact and the ranks add up."""
    paths = terms[0][0]
    return {
        path: (
            torch.cat([scale_at(weight, path) * f[path][0] for f, weight in terms], dim=1),
            torch.cat([f[path][1] for f, _ in terms], dim=0),
        )
        for path in paths
    }
