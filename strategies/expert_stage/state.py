"""What the coordinator keeps of an expert between rounds; the step from one to the next is `step`.

Every owner k has a *contribution* W_k, of low rank or a full-size matrix, and the expert's
*aggregate* is their sum ``D = sum_k W_k``. A round's answer moves its owner's contribution and
nobody else's::

    W_k += w_k s_k (B_k' A_k' - B_k A_k),    w_k = staleness_decay^delay n_k / sum_j n_j

with n_j the size of the text of each owner who answered in that round. A share belongs to a change,
and not to an owner's whole past. An owner who joins, is absent or comes late rescales nothing of
what was learned before. A withdrawal takes out W_k and leaves the others unchanged.

Where an owner goes on with its own factors, both ends hold them (its *component*), and
``W_k = S_k + weight s_k B_k A_k``: as long as its weight stays the same, the settled part S_k is
empty and W_k costs nothing beside the component. Otherwise what settles is folded by QR and SVD
(`fedmore.kernels.lowrank_sum`), to a part of its norm.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedmore.experts import factors as low_rank
from fedmore.experts.factors import Factors, empty, num_parameters
from fedmore.experts.spec import Scale, TargetModule
from fedmore.kernels.determinism import one_thread
from fedmore.kernels.lowrank_sum import bounded
from fedmore.kernels.lowrank_sum import cpu as delta
from fedmore.strategies.expert_stage.changes import COMMON, Terms, folded, product, summed


@dataclass(frozen=True)
class Component:
    """A client's mirrored factors, the updates that made them, and the s of its ranks.

    `weight` is what they count in the aggregate now. `factors` is empty if every round begins
    from the aggregate: then both ends derive a start from that.
    """

    factors: Factors
    updates: int = 0
    weight: float = 0.0
    scale: Scale = 1.0


@dataclass(frozen=True)
class ExpertState:
    """One expert at the coordinator: the aggregate, and every owner's part in it.

    `settled` holds what an owner's contribution has beside its component, `momentum` its outer
    momentum, each also under `COMMON`. `starts` are the factors from which owners began who are
    still to answer, where they were derived. `mirror` is what the clients were last sent of the
    aggregate (`fedmore.strategies.expert_stage.aggregate_mirror`), empty if it travels whole.
    `chosen` are the owners that the rule chose in the last `streak` rounds, if it chose the same
    ones. `lost` bounds the Frobenius norm of all that folds have left out.
    """

    name: str
    kind: str
    aggregate: Factors
    components: Mapping[str, Component] = field(default_factory=dict)
    mirror: Factors = field(default_factory=dict)
    settled: Mapping[str, Factors] = field(default_factory=dict)
    momentum: Mapping[str, Factors] = field(default_factory=dict)
    starts: Mapping[str, Factors] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    streak: int = 0
    lost: float = 0.0

    @property
    def rank(self) -> int:
        """Largest low rank of the aggregate over its matrices; 0 if all are of full size."""
        return low_rank.highest_rank(self.aggregate)

    @property
    def is_nothing(self) -> bool:
        """Whether the aggregate changes no matrix."""
        return not any(low_rank.ranks(self.aggregate).values())

    @property
    def exact(self) -> bool:
        """Whether an owner's part can be taken out exactly."""
        return not any(low_rank.ranks(self.settled.get(COMMON, {})).values())

    def terms(self) -> Terms:
        """The contributions as a sum, in order of the owners' names."""
        parts = [part for _, part in sorted(self.components.items())]
        held = [product(part.factors, part.weight, part.scale) for part in parts]
        return summed(*held, *(product(each, 1.0) for _, each in sorted(self.settled.items())))

    @property
    def owners(self) -> list[str]:
        """Who has a part in it."""
        return sorted({*self.components, *self.settled} - {COMMON})

    def is_of_alone(self, client: str) -> bool:
        """Whether the aggregate is nothing but this client's component."""
        parts = self.components
        return set(parts) == {client} and parts[client].weight == 1 and not self.settled

    def nested(self) -> Factors:
        """The component of the one owner in its own order of directions, with s in B.

        It is the aggregate, whose own order is that of its singular values. Empty if the expert
        has several owners.
        """
        if len(self.owners) != 1 or not self.is_of_alone(self.owners[0]):
            return {}
        (part,) = self.components.values()
        return low_rank.times(part.factors, part.scale)

    def size(self) -> dict[str, float]:
        """Rank, bytes and relative error of what is kept beside components, for a round's metrics.

        The error is all that folds have left out, against the aggregate.
        """
        kept = [*self.settled.values(), *self.momentum.values()]
        ranks = [low_rank.highest_rank(factors) for factors in self.settled.values()]
        terms = [[delta.term(change, 1.0)] for change in self.aggregate.values()]
        norm = sum(delta.norm(each) ** 2 for each in terms) ** 0.5 if self.lost else 1.0
        return {
            "contribution_rank": max(ranks, default=0),
            "contribution_bytes": 4 * sum(map(num_parameters, kept)),
            "contribution_error": self.lost / norm if norm else 0.0,
        }

    def summary(self, error: float) -> dict[str, Any]:
        """What a round's metrics say of it; `error` is that of its aggregate."""
        shared = {"aggregation_error": error, "rank": self.rank, "owners": self.owners}
        return {**shared, **self.size(), **self.sums(), "exact_withdrawal": self.exact}

    def sums(self) -> dict[str, int]:
        """What all contributions have together, and what is kept of their sum.

        `summed_rank` is the largest sum of low ranks over the matrices: the rank without any cut.
        """
        products = [delta.parted(terms)[0] for terms in self.terms().values()]
        ranks = [sum(a.shape[0] for _, a, _ in each) for each in products]
        components = sum(num_parameters(part.factors) for part in self.components.values())
        return {
            "summed_rank": max(ranks, default=0),
            "component_bytes": 4 * components,
            "stored_bytes": 4 * num_parameters(self.aggregate),
        }


def fresh(name: str, kind: str, sites: Sequence[TargetModule]) -> ExpertState:
    """An expert that changes nothing yet."""
    return ExpertState(name, kind, empty(sites))


def begun_anew(state: ExpertState, client: str, tolerance: float) -> ExpertState:
    """The state once a client's factors are no more at both ends: its contribution stays."""
    part = state.components[client]
    added = {client: product(part.factors, part.weight, part.scale)}
    with one_thread():
        settled, lost = folded(state.settled, added, 1.0, tolerance)
    components = {name: each for name, each in state.components.items() if name != client}
    return replace(state, components=components, settled=settled, lost=state.lost + lost)


def without(
    state: ExpertState, clients: Collection[str], max_rank: int, energy: float = 1.0
) -> tuple[ExpertState, float]:
    """The state without the contributions of `clients`, and the error of its aggregate.

    The mirror lags behind the aggregate and does not hold them either, so the next one is sent
    whole.
    """

    def left(parts: Mapping[str, Factors]) -> dict[str, Factors]:
        return {name: part for name, part in parts.items() if name not in clients}

    components = {name: part for name, part in state.components.items() if name not in clients}
    settled, momentum = left(state.settled), left(state.momentum)
    if not components:  # what was made of nobody in particular is nobody's then
        settled, momentum = {}, {}
    kept = replace(
        state, components=components, mirror={}, settled=settled, momentum=momentum,
        starts=left(state.starts),
    )  # fmt: skip
    with one_thread():
        return aggregated(kept, max_rank, energy)


def scaled(
    state: ExpertState, factor: float, max_rank: int, energy: float = 1.0
) -> tuple[ExpertState, float]:
    """The state with every contribution multiplied by `factor`, and the error of its aggregate."""

    def by_factor(parts: Mapping[str, Factors]) -> dict[str, Factors]:
        return {name: low_rank.times(part, factor) for name, part in parts.items()}

    components = {
        name: replace(part, weight=factor * part.weight) for name, part in state.components.items()
    }
    made = replace(
        state, components=components, mirror={}, settled=by_factor(state.settled),
        momentum=by_factor(state.momentum),
    )  # fmt: skip
    with one_thread():
        return aggregated(made, max_rank, energy)


def aggregated(state: ExpertState, max_rank: int, energy: float = 1.0) -> tuple[ExpertState, float]:
    """The state with its aggregate formed anew from the contributions, and its error.

    Every matrix keeps the fewest directions that hold the share `energy` of its squared singular
    values, and at most `max_rank`.
    """
    total, aggregate = state.terms(), Factors()
    wrong, exact = 0.0, 0.0
    for path, old in sorted(state.aggregate.items()):
        terms = total.get(path) or [delta.nothing(delta.term(old, 1.0))]
        found = bounded.stored(terms, max_rank, energy)
        aggregate[path] = found.factors
        wrong += found.error**2
        exact += found.size**2
    return replace(state, aggregate=aggregate), (wrong / exact) ** 0.5 if exact else 0.0
