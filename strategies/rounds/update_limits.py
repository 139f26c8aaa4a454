"""How large what a client sends may be: one that is larger would drown those of all other owners.

AdamW moves a number by about the learning rate in a step, whatever the gradient, so what honest
training makes is bounded.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedmore.experts.errors import WireError
from fedmore.experts.factors import Factors
from fedmore.strategies.tasks.train import TrainTask


def check_update(sent: Factors, task: TrainTask, start: Factors, max_rms: float) -> None:
    """Raise `WireError` for an answer to `task` that is larger than `max_rms`.

    0 is what the task's steps allow. `start` is what the client's factors began as.
    """
    limit = max_rms or 4 * task.learning_rate * task.steps
    if task.weight_bits:
        check_whole(sent, start, limit * (task.updates + 1))
    else:
        check_size(sent, limit)


def check_size(change: Mapping[str, Sequence[Tensor]], max_rms: float) -> None:
    """Raise `WireError` if a tensor's root mean square is above `max_rms`."""
    for path, tensors in change.items():
        for tensor in tensors:
            _check(path, tensor, max_rms)


def check_whole(factors: Factors, start: Factors, max_rms: float) -> None:
    """Raise `WireError` if factors of few bits are larger than `start` and updates allow.

    `max_rms` is what all updates so far may have moved the numbers behind them. Weights of few bits
    are at most 1.6 times as large as those (two bits, all of them a deviation from the mean), so
    twice is allowed.
    """
    for path, pair in factors.items():
        for tensor, begun in zip(pair, start[path], strict=True):
            _check(path, tensor, 2 * (_rms(begun) + max_rms))


def _check(path: str, tensor: Tensor, limit: float) -> None:
    found = _rms(tensor)
    if not found <= limit:
        raise WireError(
            f"the change of {path} has a root mean square of {found:.3g}, above "
            f"the {limit:.3g} that the round's steps allow"
        )


def _rms(tensor: Tensor) -> float:
    """Root mean square; 0 of no numbers."""
    return float(tensor.double().square().mean().sqrt()) if tensor.numel() else 0.0
