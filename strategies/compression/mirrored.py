"""Mirrored state (EF21, arXiv 2106.05203): both ends hold h; what travels is C(theta - h).

Both then add what was decoded, so the two copies stay equal bit for bit. And h follows theta: what
one send leaves out is still in theta - h at the next. Which end has theta does not matter, so it
serves both directions of the link. State goes in and out as a list of float32 tensors.

Where training uses this already: a client's *component* (`strategies.state`) is h; theta is what
the client itself has trained, and ``theta - h`` is what `error_feedback` calls the residual. The
two are one algorithm if the client trains on from theta, not from h, so `send` is that `send`.
Training on from h lets the client see and repair what the codec did, but the residual repairs it
once more. README.md has what both gave.

Towards the clients h is their mirror of an expert's aggregate
(`fedmore.strategies.expert_stage.aggregate_mirror`, which also turns the aggregate's factors into
h's coordinates), and `gains={}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedmore.strategies.compression import error_feedback
from fedmore.strategies.compression.codec import Choice, decode
from fedmore.strategies.compression.error_feedback import GAIN

Held = list[Tensor]


@dataclass(frozen=True)
class Moved:
    """One send: its bytes, and the state of both ends after it."""

    data: bytes
    held: Held


def init(tensors: Sequence[Tensor]) -> Held:
    """The state before the first send: what both ends know, such as the initial factors."""
    return [tensor.detach().cpu().float().clone() for tensor in tensors]


def send(
    codec: Choice,
    target: Sequence[Tensor],
    held: Sequence[Tensor],
    gains: Mapping[str, float] = GAIN,
) -> Moved:
    """Bring `held` towards `target`; its arguments stay as they are."""
    sent = error_feedback.send(codec, target, [-h for h in held], gains)
    return Moved(sent.data, _sum(held, sent.decoded))


def receive(codec: Choice, data: bytes, held: Sequence[Tensor]) -> Held:
    """The state after what the peer sent; raises `WireError` if `data` does not fit `held`."""
    return _sum(held, decode(codec, data, [tuple(h.shape) for h in held]))


def _sum(held: Sequence[Tensor], moves: Sequence[Tensor]) -> Held:
    return [h + move for h, move in zip(held, moves, strict=True)]
