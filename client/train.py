"""The training of one task: frozen base, frozen aggregate, trainable factors."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmore.experts.factors import Factors
from fedmore.experts.lowrank import LowRankLinear, overlay, share
from fedmore.experts.spec import Site

Report = Callable[[int, int, float, float, int], None]  # step, steps, loss, tokens/s, tokens

BETAS = (0.9, 0.95)
CLIP = 1.0
WARM_UP = 0.2  # part of a round's steps
FLOOR = 0.1  # the learning rate at the end of the last round


@dataclass(frozen=True)
class Schedule:
    """`steps` of this round, of `batch_size` windows; round `number` (from 1) of `rounds`."""

    steps: int
    batch_size: int
    learning_rate: float
    number: int
    rounds: int

    def rate(self, step: int) -> float:
        """Learning rate of a step (from 0): warms up in every round, decays over all of them."""
        warm = min(1.0, (step + 1) / max(1.0, WARM_UP * self.steps))
        gone = ((self.number - 1) * self.steps + step) / (self.rounds * self.steps)
        return self.learning_rate * warm * (1 - (1 - FLOOR) * gone)


@dataclass(frozen=True)
class Trained:
    """What training gave: `factors`, mean loss in nats per token, tokens seen, their rate."""

    factors: Factors
    loss: float
    tokens: int
    tokens_per_s: float


def train(
    model: Any,
    sites: tuple[Site, ...],
    start: Factors,
    frozen: Factors | None,
    scale: float,
    windows_WT: Tensor,
    schedule: Schedule,
    report: Report,
) -> Trained:
    """Train factors from `start` on `windows_WT` with AdamW; `model` itself stays as it is.

    Raises `FloatingPointError` when the loss is no longer finite.
    """
    copied = share(model)
    layers = overlay(copied, frozen, sites)
    for path, (b, a) in start.items():
        layers[path].trainable(b.to(model.device), a.to(model.device), scale)
    copied.train()
    began = time.perf_counter()
    losses = []
    for step, loss in enumerate(_steps(copied, layers.values(), windows_WT, schedule), 1):
        losses.append(loss)
        tokens = step * schedule.batch_size * (windows_WT.shape[1] - 1)
        speed = tokens / (time.perf_counter() - began)
        report(step, schedule.steps, loss, speed, tokens)
    factors = {path: _trained(layer) for path, layer in layers.items()}
    return Trained(factors, sum(losses) / len(losses), tokens, speed)


def _steps(
    model: Any, layers: Iterable[LowRankLinear], windows_WT: Tensor, schedule: Schedule
) -> Iterable[float]:
    """One optimiser step a turn; yields its loss."""
    parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, betas=BETAS, weight_decay=0.0)
    batches = windows_WT.to(model.device).view(schedule.steps, schedule.batch_size, -1)
    for step in range(schedule.steps):
        optimiser.param_groups[0]["lr"] = schedule.rate(step)
        batch = batches[step]
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"loss {loss.item()} at step {step + 1}: lower learning_rate")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        optimiser.zero_grad()
        yield loss.item()


def _trained(layer: LowRankLinear) -> tuple[Tensor, Tensor]:
    if layer.b is None or layer.a is None:
        raise RuntimeError("a layer without trainable factors was trained")
    return layer.b.detach().float().cpu(), layer.a.detach().float().cpu()
