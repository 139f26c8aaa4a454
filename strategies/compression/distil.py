"""BitDelta's second step (arXiv 2402.10193, section 3.1): scales tuned against the full expert.

The full-size expert is the teacher, and ``W + alpha sign(D)`` the student. Only the scales alpha
are trained, one for each matrix, so that the student's logits come near the teacher's on a
calibration text. Nobody's labels are used, and a few hundred windows are enough, since there is so
little to fit.

No stage of a plan calls this yet.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss

from fedmore.experts.low_rank_linear import replace, share
from fedmore.strategies.compression.bitdelta import mean_magnitude

Deltas = Mapping[str, Tensor]  # module path -> D [out, in], a change of that linear layer's weight


class ChangedLinear(nn.Module):
    """``y = W x + alpha (D x)``: W and D frozen; alpha [1] is trained as a factor of `scale`."""

    def __init__(self, base: nn.Module, delta_OI: Tensor, scale: float) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("delta_OI", delta_OI, persistent=False)
        self.scale = scale
        self.factor = nn.Parameter(torch.ones(1, device=delta_OI.device))

    @property
    def alpha(self) -> float:
        """The scale that this matrix has now."""
        return self.scale * float(self.factor.detach())

    def forward(self, x: Tensor) -> Tensor:
        """The changed linear layer; the change is cast to x's dtype."""
        change = linear(x, self.get_buffer("delta_OI").to(x.dtype))
        y: Tensor = self.base(x) + (self.scale * self.factor).to(x.dtype) * change
        return y


def initial_scales(deltas: Deltas) -> dict[str, float]:
    """``mean |D|`` of every matrix: the least-squares scales, where tuning starts."""
    return {path: float(mean_magnitude(delta.detach())) for path, delta in deltas.items()}


def binary(deltas: Deltas, scales: Mapping[str, float]) -> dict[str, Tensor]:
    """``alpha sign(D)`` of every matrix, which the codec `bitdelta` takes without a loss."""
    return {path: scales[path] * signs(delta) for path, delta in deltas.items()}


def signs(delta_OI: Tensor) -> Tensor:
    """Signs as the codec has them: zero counts as positive."""
    return torch.where(delta_OI >= 0, 1.0, -1.0)


def logit_error(model: Any, deltas: Deltas, scales: Mapping[str, float], batches: Tensor) -> float:
    """Mean squared difference of the logits of ``alpha sign(D)`` to those of D."""
    teacher, (student, _) = changed(model, deltas), _student(model, deltas, scales)
    with torch.inference_mode():
        errors = [float(_loss(student, teacher, batch)) for batch in batches]
    return sum(errors) / len(errors)


def tune(
    model: Any, deltas: Deltas, batches: Tensor, epochs: int = 1, learning_rate: float = 0.02
) -> dict[str, float]:
    """Scales for `deltas` of frozen `model`, tuned by Adam on token ids `batches` [steps, B, T].

    The learning rate is relative to each scale and falls to 0. Raises `FloatingPointError` when the
    loss is no longer finite. `model` stays as it is.
    """
    teacher = changed(model, deltas)
    student, layers = _student(model, deltas, initial_scales(deltas))
    optimiser = torch.optim.Adam([layer.factor for layer in layers.values()], learning_rate)
    total = epochs * len(batches)
    for step in range(total):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / total)
        loss = _loss(student, teacher, batches[step % len(batches)])
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"loss {loss.item()} at step {step + 1}: lower learning_rate")
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    return {path: layer.alpha for path, layer in layers.items()}


def changed(model: Any, deltas: Deltas) -> Any:
    """A copy of `model` (weights shared) with dense changes in it, frozen."""
    copied, _ = _overlay(model, deltas, dict.fromkeys(deltas, 1.0))
    return copied.requires_grad_(False)


def _student(
    model: Any, deltas: Deltas, scales: Mapping[str, float]
) -> tuple[Any, dict[str, ChangedLinear]]:
    return _overlay(model, {path: signs(delta) for path, delta in deltas.items()}, scales)


def _overlay(
    model: Any, deltas: Deltas, scales: Mapping[str, float]
) -> tuple[Any, dict[str, ChangedLinear]]:
    copied, layers = share(model), {}
    for path, delta in deltas.items():
        linear_layer = copied.get_submodule(path)
        device = next(linear_layer.parameters()).device
        layers[path] = ChangedLinear(linear_layer, delta.detach().to(device), scales[path])
        replace(copied, path, layers[path])
    return copied, layers


def _loss(student: Any, teacher: Any, ids_BT: Tensor) -> Tensor:
    ids = ids_BT.to(teacher.device)
    with torch.no_grad():
        wanted = teacher(input_ids=ids, use_cache=False).logits
    found = student(input_ids=ids, use_cache=False).logits
    return mse_loss(found.float(), wanted.float())
