"""The training of one task: frozen base, frozen aggregate, trainable factors."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmore.client.owner.memory_saving import NO_SAVING, MemorySaving
from fedmore.client.training.checkpoint import Checkpoints, Position, key_of
from fedmore.client.training.dropout import Dropout
from fedmore.client.training.nested_ranks import prefix_of, use_prefix
from fedmore.client.training.optimizer import make_optimizer, moments_of, restore_moments
from fedmore.experts.errors import ConfigError
from fedmore.experts.factors import Factors, highest_rank, to_state
from fedmore.experts.low_rank_linear import LowRankLinear, moved, overlay, share
from fedmore.experts.spec import Scale, TargetModule, scale_at

Report = Callable[[int, int, float, float, int], None]  # step, steps, loss, tokens/s, tokens

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
    warms_up: bool = True

    def rate(self, step: int) -> float:
        """Learning rate of a step (from 0): may warm up in this round, decays over all of them."""
        warm = min(1.0, (step + 1) / max(1.0, WARM_UP * self.steps)) if self.warms_up else 1.0
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
    sites: tuple[TargetModule, ...],
    start: Factors,
    frozen: Factors | None,
    scale: Scale,
    windows_WT: Tensor,
    schedule: Schedule,
    report: Report,
    checkpoints: Checkpoints | None = None,
    base: str = "",
    bits: int = 0,
    seed: int = 0,
    nested: bool = False,
    saving: MemorySaving = NO_SAVING,
) -> Trained:
    """Train factors from `start` on `windows_WT` with AdamW; `model` itself stays as it is.

    Goes on from a checkpoint of the same training, `base` being the fingerprint of `model`, and
    then ends with the same factors. `seed` is that of a base's dropout. With `bits` factors are
    used as weights of so many bits; what comes out are the latent ones. With `nested` each step
    trains a prefix of the directions (`fedmore.client.training.nested_ranks`), of which a full-size
    matrix has none. `saving` says how memory is spared. Raises `FloatingPointError` when the loss
    is no longer finite.
    """
    copied = share(model)
    layers = overlay(copied, frozen, sites)
    for path, change in start.items():
        layers[path].trainable(moved(change, model.device), scale_at(scale, path), bits)
    copied.train()
    if saving.gradient_checkpointing:
        recompute_blocks(copied)
    kept = checkpoints or Checkpoints(None)
    run = Run(copied, _named(layers), windows_WT, schedule, Dropout(copied, seed), saving)
    how: tuple[object, ...] = (scale, bits, astuple(schedule), seed)
    how += ("nested",) if nested else ()
    how += (saving.optimizer,) if saving.optimizer != NO_SAVING.optimizer else ()
    key = key_of([base, repr(how), windows_WT, *_parts(start, frozen)])
    largest = highest_rank(start) if nested else 0
    first, losses = run.resume(kept.read(key))
    began = time.perf_counter()
    for step in range(first, schedule.steps):
        if largest:
            use_prefix(layers, prefix_of(seed, step, largest))
        losses.append(run.step(step))
        if kept.due() and step + 1 < schedule.steps:
            kept.write(key, run.position(step + 1, losses))
        tokens = (step + 1) * run.tokens
        speed = (step + 1 - first) * run.tokens / (time.perf_counter() - began)
        report(step + 1, schedule.steps, losses[-1], speed, tokens)
    factors = {path: layer.trained for path, layer in layers.items()}
    return Trained(factors, sum(losses) / len(losses), tokens, speed)


class Run:
    """Model, optimiser and text of one training; its state can be taken out and put back."""

    def __init__(
        self,
        model: Any,
        parameters: Mapping[str, nn.Parameter],
        windows_WT: Tensor,
        schedule: Schedule,
        dropout: Dropout,
        saving: MemorySaving = NO_SAVING,
    ) -> None:
        self._model = model
        self._dropout = dropout
        self._parameters = parameters
        self._schedule = schedule
        self._optimiser = make_optimizer(parameters.values(), saving)
        self._batches = windows_WT.to(model.device).view(schedule.steps, schedule.batch_size, -1)
        self.tokens = schedule.batch_size * (windows_WT.shape[1] - 1)

    def step(self, step: int) -> float:
        """One optimiser step (from 0); its loss."""
        self._optimiser.param_groups[0]["lr"] = self._schedule.rate(step)
        batch = self._batches[step]
        with self._dropout.drawn(step):
            logits = self._model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"loss {loss.item()} at step {step + 1}: lower learning_rate")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters.values(), CLIP)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return loss.item()

    def position(self, step: int, losses: list[float]) -> Position:
        """All that the next steps depend on."""
        tensors = {}
        for name, parameter in self._parameters.items():
            tensors[name] = parameter.detach().cpu()
            moments = moments_of(self._optimiser, parameter)
            tensors |= {f"{name}.{moment}": value for moment, value in moments.items()}
        return Position(step, list(losses), tensors)

    def resume(self, position: Position | None) -> tuple[int, list[float]]:
        """Go to a position: the number of steps that are done, and their losses."""
        if position is None:
            return 0, []
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(position.tensors[name])
                prefix = f"{name}."
                moments = {
                    key.removeprefix(prefix): value
                    for key, value in position.tensors.items()
                    if key.startswith(prefix)
                }
                restore_moments(self._optimiser, parameter, moments, position.step)
        return position.step, list(position.losses)


def recompute_blocks(model: Any) -> None:
    """Let a model of transformers compute activations again in the backward pass.

    Raises `ConfigError` for a model that cannot.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ConfigError("this base cannot recompute its blocks: leave out gradient checkpointing")
    model.activation_checkpointing_enable()


def _named(layers: Mapping[str, LowRankLinear]) -> dict[str, nn.Parameter]:
    """Trainable parameters in the order of the layers, by name."""
    return {
        f"{path}.{name}": parameter
        for path, layer in layers.items()
        for name, parameter in layer.named_parameters()
        if parameter.requires_grad
    }


def _parts(*factors: Factors | None) -> Iterable[str | Tensor]:
    for each in factors:
        for name, tensor in to_state(each or {}).items():
            yield from (name, tensor)
