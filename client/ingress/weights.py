"""Whether a change that the coordinator sent may be trained over: it could be made to read text.

A change can be built so that the gradient of one token names that token: for example one that makes
the model say the same at every position. Two things bound what such a change can do. It is small
against the base's own matrices, by spectral norm. And the owner's own held-out text is not worse
under it than under the bare base, by more than a set amount. Neither is a proof; docs/security.md
says what remains.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.base.model import Base
from fedmore.experts.errors import EgressError
from fedmore.experts.factors import Change, Factors
from fedmore.experts.low_rank_linear import with_change
from fedmore.kernels.determinism import one_thread

ITERATIONS = 30
PROBES = 4


def check_change(
    base: Base, change: Factors, holdout_WT: Tensor | None, rules: OwnerPolicy, what: str
) -> dict[str, float]:
    """Raise `EgressError` for a change that may not be trained over; else its two figures.

    `change` holds factors of matrices of the base, and `what` is its name in messages.
    `holdout_WT` are token ids [W, T + 1] of the owner's held-out text; None if there is too little
    text to hold any out, and then only the size of the change is judged.

    """
    ratio = largest_ratio(base, change)
    if ratio > rules.max_spectral_ratio:
        raise EgressError(
            f"{what}: a matrix of it has {ratio:.2f} times the spectral norm of the base's own; "
            f"the owner takes at most {rules.max_spectral_ratio:g} (max_spectral_ratio)"
        )
    if holdout_WT is None or not len(holdout_WT):
        return {"spectral_ratio": ratio}
    worse = check_model(base, with_change(base.model, change), holdout_WT, rules, what)
    return {"spectral_ratio": ratio, "worse_nats": worse}


def check_model(
    base: Base, model: Callable[..., Any], holdout_WT: Tensor | None, rules: OwnerPolicy, what: str
) -> float:
    """By how many nats a token a model of the coordinator's is worse than the bare base.

    Raises `EgressError` for more than the owner takes. Without held-out text it is 0.
    """
    if holdout_WT is None or not len(holdout_WT):
        return 0.0
    worse = loss_of(model, holdout_WT) - _base_loss(base, holdout_WT)
    check_worse(worse, rules, what)
    return worse


def check_worse(worse: float, rules: OwnerPolicy, what: str) -> None:
    """Raise `EgressError` if held-out text loses more nats a token than the owner allows."""
    if not worse <= rules.max_worse:  # NaN is refused too
        # How much worse is a number about the owner's text: it stays in the audit.
        raise EgressError(
            f"{what}: the owner's held-out text is worse with it than the owner takes (max_worse "
            "of --policy)",
            private=f"{worse:+.3f} nats a token, at most {rules.max_worse:+g} are taken",
        )


def largest_ratio(base: Base, change: Factors) -> float:
    """The largest spectral norm of a change's matrix, as a multiple of the base's own matrix's."""
    norms = spectral_norms(base, tuple(sorted(change)))
    with one_thread():
        found = [_norm_of(change[path]) / max(norms[path], 1e-30) for path in change]
    return max(found, default=0.0)


@functools.lru_cache(maxsize=4)
def spectral_norms(base: Base, paths: tuple[str, ...]) -> dict[str, float]:
    """Spectral norms of matrices of the base, by power iteration through the layers themselves.

    The layers may be quantised. An estimate never exceeds the true norm, so it errs to the strict
    side.
    """
    return {path: _power_iteration(base.model.get_submodule(path)) for path in paths}


def _power_iteration(layer: Any) -> float:
    weight = next(layer.parameters())
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
    width = _inner(layer)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PROBES, width, generator=generator).to(weight.device, dtype)
    size = 0.0
    with torch.enable_grad():
        zero = layer(torch.zeros_like(x)).detach()  # the bias
        for _ in range(ITERATIONS):
            x = (x / x.float().norm(dim=1, keepdim=True).clamp_min(1e-30)).to(dtype)
            x.requires_grad_(True)
            y = layer(x) - zero
            size = float(y.detach().float().norm(dim=1).max())
            (x,) = torch.autograd.grad(y, x, y.detach())
    return size


def _inner(layer: Any) -> int:
    """Input width of a linear layer, or of GPT-2's transposed one."""
    return int(layer.in_features if hasattr(layer, "in_features") else layer.weight.shape[0])


def _norm_of(change: Change) -> float:
    """The spectral norm; of a full-size matrix exactly, so that no iteration can be misled."""
    if len(change) == 1:
        small = change[0].double()
        small = small if small.shape[0] <= small.shape[1] else small.T
        size = float(torch.linalg.eigvalsh(small @ small.T)[-1].clamp_min(0.0).sqrt())
        return size if math.isfinite(size) else math.inf
    b_OR, a_RI = change
    if not b_OR.shape[1]:
        return 0.0
    _, left_RR = torch.linalg.qr(b_OR.double())
    _, right_RR = torch.linalg.qr(a_RI.double().T)
    norm = float(torch.linalg.svdvals(left_RR @ right_RR.T)[0])
    return norm if math.isfinite(norm) else math.inf


@functools.lru_cache(maxsize=8)
def _known_loss(base: Base, shape: tuple[int, ...], ids: bytes) -> float:
    windows = torch.frombuffer(bytearray(ids), dtype=torch.int64).view(shape)
    return loss_of(base.model, windows)


def _base_loss(base: Base, windows_WT: Tensor) -> float:
    ids = windows_WT.cpu().long().contiguous()
    return _known_loss(base, tuple(ids.shape), ids.numpy().tobytes())


@torch.no_grad()
def loss_of(model: Callable[..., Any], windows_WT: Tensor) -> float:
    """Mean loss of a model over windows of token ids [W, T + 1], in nats a token."""
    total, count = 0.0, 0
    untyped: Any = model
    for window_T in windows_WT.to(untyped.device):
        logits = untyped(input_ids=window_T[None, :-1], use_cache=False).logits[0]
        total += float(cross_entropy(logits.float(), window_T[1:], reduction="sum"))
        count += len(window_T) - 1
    return total / count
