"""A client's component, of which both ends hold the same, and how a training moves it.

Changes: what travels is the change of the factors, both ends add what was decoded, and what the
codec lost is carried to the next send (EF21, arXiv 2106.05203). Weights of few bits
(`TrainTask.weight_bits`) travel whole, as the training used them, and both ends hold exactly these.
The latent numbers behind them stay here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedmore.client.state.memory import Remembered
from fedmore.experts import factors as low_rank
from fedmore.experts.errors import WireError
from fedmore.experts.factors import Factors
from fedmore.experts.spec import Scale, TargetModule
from fedmore.strategies.compression.codec import codecs_of
from fedmore.strategies.compression.error_feedback import send
from fedmore.strategies.expert_stage.round_start import rotated, start_of
from fedmore.strategies.tasks.train import TrainTask


@dataclass(frozen=True)
class Component:
    """`held` by both ends, and what this client has beside it: their sum is what it trains."""

    held: Factors
    beside: Factors

    @property
    def start(self) -> Factors:
        """Where training goes on: what this client made itself."""
        return low_rank.total(self.held, self.beside)


@dataclass(frozen=True)
class Moved:
    """The bytes of an answer, and the component once they have arrived."""

    data: bytes
    component: Component


def find(task: TrainTask, entry: Remembered | None, initial: Factors) -> Component:
    """The component that a task starts from; raises `WireError` if both ends do not hold the same.

    It is this client's own, after its last answer or before it. One that lost its state begins
    anew, like an owner who has just come: the coordinator asks it for update 0 then.
    """
    held = _held(task, entry)
    if held is not None:
        return held
    if task.updates == 0:
        return Component(initial, low_rank.zeros(initial))
    known = entry.updates if entry else 0
    raise WireError(f"{task.expert}: this client knows {known} of its {task.updates} updates")


def find_at(
    aggregate: Factors | None,
    task: TrainTask,
    entry: Remembered | None,
    initial: Factors,
    scale: Scale,
) -> Component:
    """The component of a round that begins from the aggregate, at the s of this client's ranks.

    Both ends derive it alike (`fedmore.strategies.expert_stage.round_start`).
    What this client owes is turned into the new directions; one that lost its state owes nothing.
    """
    start = initial if aggregate is None else start_of(aggregate, initial, scale)
    held = _held(task, entry)
    owed = low_rank.zeros(start) if held is None else rotated(held.beside, held.held, start)
    return Component(start, owed)


def _held(task: TrainTask, entry: Remembered | None) -> Component | None:
    """What this client holds at as many updates as the coordinator has of it."""
    if entry is not None and entry.updates == task.updates:
        return Component(entry.component, entry.residual)
    if entry is not None and entry.before and entry.updates == task.updates + 1:
        return Component(*entry.before)  # its last answer was not taken
    return None


def move(
    task: TrainTask, trained: Factors, component: Component, sites: Sequence[TargetModule]
) -> Moved:
    """What is sent of `trained`, and the component after it."""
    nothing = low_rank.zeros(trained)
    whole = task.weight_bits > 0
    start, owed = (nothing, nothing) if whole else (component.start, component.beside)
    changes = low_rank.tensors(low_rank.difference(trained, start), sites)
    ranks = low_rank.ranks(trained)
    shapes = [tuple(change.shape) for change in changes]
    codecs = codecs_of(task.codec, shapes, low_rank.roles(sites, ranks))
    sent = send(codecs, changes, low_rank.tensors(owed, sites))
    decoded = low_rank.from_tensors(sent.decoded, sites, ranks)
    held = low_rank.total(nothing if whole else component.held, decoded)
    return Moved(sent.data, Component(held, low_rank.from_tensors(sent.residual, sites, ranks)))
