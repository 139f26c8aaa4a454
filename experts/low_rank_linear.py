"""Changes of low rank or full size over a frozen model, whose weights threads may share."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedmore.experts.factors import Change, Factors
from fedmore.experts.spec import Scale, TargetModule, scale_at
from fedmore.kernels.dispatch import choose


class LowRankLinear(nn.Module):
    """``y = W x + B_f A_f x + scale B A x``; `W` and the pair f are frozen, A and B are trained.

    Either product may be a full-size matrix D instead. With `bits`, what is trained is quantised to
    that width in every forward pass (`fedmore.kernels.lowbit`), and the latent numbers behind it
    are trained. With `prefix` only the first directions of A and B are used, and so only they have
    a gradient.
    """

    def __init__(self, base: nn.Module, frozen: Change | None = None) -> None:
        super().__init__()
        self.base = base
        self.frozen = frozen
        self.scale = 0.0
        self.prefix: int | None = None
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        self.full: nn.Parameter | None = None
        self._used: Callable[[Tensor], Tensor] = _as_is

    def trainable(self, change: Change, scale: float, bits: int = 0) -> None:
        """Add trainable copies of a change's factors; `bits` 0 means no quantisation."""
        if len(change) == 1:
            self.full = nn.Parameter(change[0].clone())
        else:
            self.lora_A, self.lora_B = (
                nn.Parameter(change[1].clone()),
                nn.Parameter(change[0].clone()),
            )
        self.scale = scale
        if bits:
            self._used = functools.partial(choose("lowbit", change[0].device).quantise, bits=bits)

    @property
    def trained(self) -> Change:
        """The trained factors, float32 on the CPU; raises `RuntimeError` if there are none."""
        if self.full is not None:
            return (self.full.detach().float().cpu(),)
        if self.lora_B is None or self.lora_A is None:
            raise RuntimeError("a layer without trainable factors was trained")
        return self.lora_B.detach().float().cpu(), self.lora_A.detach().float().cpu()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the changed layer to x [..., in]; factors are cast to x's dtype."""
        rows = x.flatten(0, -2)
        y: Tensor = self.base(rows)
        # In place on the fresh y, which saves writing and reading a second [rows, out] tensor.
        if self.frozen is not None and len(self.frozen) == 1:
            y.addmm_(rows, self.frozen[0].T.to(x.dtype))
        elif self.frozen is not None and self.frozen[1].shape[0]:
            b, a = self.frozen
            y.addmm_(rows @ a.T.to(x.dtype), b.T.to(x.dtype))
        if self.full is not None:
            y.addmm_(rows, self._used(self.full).T.to(x.dtype), alpha=self.scale)
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


def _wrap(model: nn.Module, path: str, pair: Change | None) -> LowRankLinear:
    linear = model.get_submodule(path)
    device = next(linear.parameters()).device
    wrapped = LowRankLinear(linear, pair and moved(pair, device))
    replace(model, path, wrapped)
    return wrapped


def with_change(model: nn.Module, factors: Factors) -> Any:
    """Copy `model`, sharing its weights, with a frozen change in it."""
    copied = share(model)
    for path, pair in factors.items():
        _wrap(copied, path, pair)
    return copied


def moved(change: Change, device: torch.device) -> Change:
    """The change on a device."""
    if len(change) == 1:
        return (change[0].to(device),)
    return change[0].to(device), change[1].to(device)


def combine(terms: Sequence[tuple[Factors, Scale]]) -> Factors:
    """Stack several changes with their weights into one; the sum is exact and the ranks add up.

    The sum with a full-size matrix is a full-size one, float32.
    """
    return {
        path: _combined([(f[path], scale_at(weight, path)) for f, weight in terms])
        for path in terms[0][0]
    }


def _combined(terms: Sequence[tuple[Change, float]]) -> Change:
    if any(len(change) == 1 for change, _ in terms):
        first = terms[0][0]
        total = torch.zeros(first[0].shape[0], first[-1].shape[1])
        for change, weight in terms:
            if len(change) == 1:
                total.add_(change[0], alpha=weight)
            else:
                total.addmm_(change[0], change[1], alpha=weight)
        return (total,)
    pairs = [(change, weight) for change, weight in terms if len(change) == 2]
    return (
        torch.cat([weight * change[0] for change, weight in pairs], dim=1),
        torch.cat([change[1] for change, _ in pairs], dim=0),
    )
