"""Trains a router over experts: by gradient or, for ReMix, by forward losses alone.

Shape suffixes: W windows, B of them in a batch, T tokens, A arms, L decisions, M selections.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.model import Mixture
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.sampling import effective_size

if TYPE_CHECKING:  # reinforce imports this module
    from fedmore.experts.router_training.reinforce import LossTable

Report = Callable[[int, int, float], None]  # step, steps, loss in nats per token

CLIP = 1.0
FLOOR = 0.1  # the final learning rate as a fraction of the first


@dataclass(frozen=True)
class Training:
    """How a router is trained.

    ReMix uses `num_selections` (M), `entropy_weight` and `masked`: with `masked`, a selection is
    not charged with the tokens before it was made. Softmax routers use `z_loss_weight` and
    `balance_weight`, the load-balance loss of MixLoRA and Switch. With `experts_learning_rate`
    above 0, the experts are trained too, at that learning rate; the mixture must be assembled
    `trainable`. With `only`, just the router's numbers for these arms are trained, as for an expert
    that was added.
    """

    steps: int = 24
    batch_size: int = 8
    learning_rate: float = 0.03
    num_selections: int = 4
    entropy_weight: float = 0.0
    masked: bool = True
    balance_weight: float = 0.01
    z_loss_weight: float = 1e-3
    experts_learning_rate: float = 0.0
    only: tuple[int, ...] = ()
    seed: int = 0

    def rate(self, step: int) -> float:
        """Fraction of the learning rate at a step, counted from 0."""
        return 1 - (1 - FLOOR) * step / self.steps


@dataclass
class Trace:
    """The record of a training: every step's mean loss, seconds, and effective sample size [L]."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ess: list[list[float]] = field(default_factory=list)

    @property
    def steps_per_s(self) -> float:
        """Optimiser steps per second."""
        return len(self.seconds) / sum(self.seconds)


def window_losses(model: Any, ids_BT: Tensor, copies: int = 1) -> Tensor:
    """Mean nats per predicted token of windows, [B * copies], float32, differentiable."""
    return token_losses(model, ids_BT, copies).mean(1)


def token_losses(model: Any, ids_BT: Tensor, copies: int = 1) -> Tensor:
    """Nats of every predicted token of windows, [B * copies, T - 1], float32, differentiable."""
    logits = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    targets = ids_BT[:, 1:].repeat_interleave(copies, dim=0)
    return cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")


def train_router(
    mixture: Mixture,
    windows_WT: Tensor,
    training: Training,
    report: Report | None = None,
    table: "LossTable | None" = None,
) -> Trace:
    """Train the mixture's router in place on windows, int64 [W, T + 1]; deterministic by seed.

    Windows are used in their order, and again from the first after the last. `table` holds losses
    that are known already, for the same windows, experts and weights. Raises `ConfigError` if this
    kind of router is not trained.
    """
    router = mixture.router
    if not any(p.requires_grad for p in router.parameters()):
        raise ConfigError(f"the router {router.spec.kind!r} is set, not trained")
    steps = _method(mixture, windows_WT.to(mixture.model.device), training, table)
    optimiser = torch.optim.AdamW(list(_groups(mixture, training)), weight_decay=0.0)
    rates = [group["lr"] for group in optimiser.param_groups]
    trace = Trace()
    for step, rows in enumerate(batches(len(windows_WT), training)):
        began = time.perf_counter()
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * training.rate(step)
        loss = steps.step(step, rows)
        if training.only:
            _mask(router, training.only)
        for group in optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], CLIP)
        optimiser.step()
        optimiser.zero_grad()
        trace.seconds.append(time.perf_counter() - began)
        trace.losses.append(loss)
        trace.ess.append(steps.ess)
        if report:
            report(step + 1, training.steps, loss)
    return trace


def _method(
    mixture: Mixture, windows_WT: Tensor, training: Training, table: "LossTable | None"
) -> Any:
    from fedmore.experts.router_training.reinforce import Reinforce

    if mixture.router.spec.kind == "remix":
        return Reinforce(mixture, windows_WT, training, table)
    return ByGradient(mixture, windows_WT, training)


def batches(count: int, training: Training) -> Iterator[list[int]]:
    """Yield the indices of each step's windows."""
    for step in range(training.steps):
        first = step * training.batch_size
        yield [(first + i) % count for i in range(training.batch_size)]


def _groups(mixture: Mixture, training: Training) -> Iterator[dict[str, Any]]:
    yield {"params": list(mixture.router.parameters()), "lr": training.learning_rate}
    if training.experts_learning_rate:
        factors = [t for pairs in mixture.trained.values() for pair in pairs.values() for t in pair]
        if not factors:
            raise ConfigError("experts_learning_rate: the mixture was not assembled trainable")
        yield {"params": factors, "lr": training.experts_learning_rate}


def _mask(router: Router, arms: tuple[int, ...]) -> None:
    """Zero the gradients of all arms but these."""
    for name, parameter in router.named_parameters():
        if parameter.grad is None:
            continue
        axis = router.arm_axes.get(name)
        kept = torch.zeros_like(parameter.grad)
        if axis is not None:
            index = torch.tensor(arms, device=kept.device)
            kept.index_copy_(axis, index, parameter.grad.index_select(axis, index))
        parameter.grad = kept


class ByGradient:
    """Back-propagation through the mixture to the router's weights."""

    def __init__(self, mixture: Mixture, windows_WT: Tensor, training: Training) -> None:
        self.mixture, self.windows_WT, self.training = mixture, windows_WT, training
        self.ess: list[float] = []

    def step(self, _step: int, rows: list[int]) -> float:
        """Compute the gradients of one step; returns its loss without the auxiliary losses."""
        logits: list[Tensor] = []
        weights: list[Tensor] = []
        with self.mixture.gates.asking(recorded=logits, watch=weights):
            loss = window_losses(self.mixture.model, self.windows_WT[rows]).mean()
        finite(loss)
        (loss + self._auxiliary(logits)).backward()  # type: ignore[no-untyped-call]
        self.ess = [float(effective_size(w.detach()).mean()) for w in weights]
        return loss.item()

    def _auxiliary(self, recorded: Sequence[Tensor]) -> Tensor:
        """Load-balance loss over the batch, plus z-loss of the logits (ST-MoE, arXiv 2202.08906).

        The z-loss is left out for logits that start from domain embeddings: they grow with the
        evidence.
        """
        total = torch.zeros(())
        spec = self.mixture.router.spec
        z_loss_weight = 0.0 if spec.init == "domain" else self.training.z_loss_weight
        for logits in recorded:
            flat = logits.flatten(0, 1)
            total = total + self.training.balance_weight * balance_loss(flat, spec.top_k)
            total = total + z_loss_weight * flat.logsumexp(-1).square().mean()
        return total / max(1, len(recorded))


def balance_loss(logits_NA: Tensor, top_k: int) -> Tensor:
    """``A sum_a f_a P_a``, with f_a arm a's share of the choices and P_a its mean probability.

    It is 1 if all arms are alike (Switch, arXiv 2101.03961, section 2.2; MixLoRA over its top-k).
    """
    arms = logits_NA.shape[-1]
    k = min(top_k or arms, arms)
    chosen = logits_NA.topk(k, dim=-1).indices
    share_A = torch.bincount(chosen.flatten(), minlength=arms) / chosen.numel()
    return arms * (share_A * logits_NA.softmax(-1).mean(0)).sum()


def finite(loss: Tensor) -> None:
    """Raise `FloatingPointError` if the loss is NaN or infinite."""
    if not bool(torch.isfinite(loss)):
        raise FloatingPointError(f"router training: loss {loss.item()}; lower the learning rate")


@torch.no_grad()
def fit_features(router: Router, model: Any, ids_BT: Tensor, blocks: tuple[int, ...]) -> None:
    """Set a learned router's feature means and deviations from public text [B, T] in the base."""
    features: Any = getattr(router, "features", None)
    if features is None:
        return
    hidden = model(input_ids=ids_BT, use_cache=False, output_hidden_states=True).hidden_states
    places = [-1] if router.two_pass else [0] if router.shared else blocks
    for slot, place in enumerate(places):
        features.fit(slot, hidden[place][:, 1:].flatten(0, 1))  # without the start token
