"""What the coordinator keeps of an expert between rounds, and the step from round to round.

Every client k has a *component* ``s_k B_k A_k`` of its own rank, which coordinator and client both
hold (mirrored). The expert's *aggregate* is ``D = sum_k p_k s_k B_k A_k`` over all components, with
``p_k`` in proportion to their weights, kept at full rank. In a round a client starts from ``D``,
moves its component, and sends the change of its factors. Nothing is truncated on the way to a
client of lower rank, so there is no rank collapse (FACTS, aggregation); and an owner is withdrawn
exactly, by leaving its component out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedmore.experts.factors import Factors, empty
from fedmore.experts.spec import Site
from fedmore.kernels.delta import cpu as delta
from fedmore.kernels.determinism import one_thread
from fedmore.strategies.robust import MEAN, Rule


@dataclass(frozen=True)
class Component:
    """A client's mirrored factors, the updates that made them, its weight, and the s of its rank.

    The weight is the size of the client's text, less where its last update came late.
    """

    factors: Factors
    updates: int = 0
    weight: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True)
class ExpertState:
    """One expert at the coordinator: the aggregate and every client's component.

    `mirror` is what the clients were last sent of the aggregate (`fedmore.strategies.mirror`),
    empty where nothing or where it travels whole. The next aggregate does not depend on it.
    """

    name: str
    kind: str
    aggregate: Factors
    components: Mapping[str, Component] = field(default_factory=dict)
    mirror: Factors = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Largest rank of the aggregate over its matrices."""
        return max(a.shape[0] for _, a in self.aggregate.values())


@dataclass(frozen=True)
class Contribution:
    """A client's factors after a round, and what its component counts from now on."""

    client: str
    after: Factors
    weight: float
    scale: float


def fresh(name: str, kind: str, sites: Sequence[Site]) -> ExpertState:
    """An expert that changes nothing yet."""
    return ExpertState(name, kind, empty(sites))


def advance(
    state: ExpertState,
    contributions: Sequence[Contribution],
    max_rank: int,
    rule: Rule = MEAN,
) -> tuple[ExpertState, float]:
    """The state after a round, and the relative Frobenius error of its aggregate.

    The error is against the exact weighted sum of the components that the rule chose: rounding,
    and what a `max_rank` below the sum of ranks cuts off.
    """
    components = dict(state.components)
    for item in contributions:
        before = components.get(item.client)
        updates = 1 + (before.updates if before else 0)
        components[item.client] = Component(item.after, updates, item.weight, item.scale)
    return _aggregated(replace(state, components=components), max_rank, rule)


def without(
    state: ExpertState, clients: Collection[str], max_rank: int, rule: Rule = MEAN
) -> tuple[ExpertState, float]:
    """The state as if `clients` had no part in the present aggregate, and its error.

    Nor in the mirror, which lags behind the aggregate: it is given up, and the next one sent whole.
    """
    left = {name: part for name, part in state.components.items() if name not in clients}
    return _aggregated(replace(state, components=left, mirror={}), max_rank, rule)


def _aggregated(state: ExpertState, max_rank: int, rule: Rule) -> tuple[ExpertState, float]:
    with one_thread():
        aggregate, error = _aggregate(state, max_rank, rule)
    return replace(state, aggregate=aggregate), error


def _aggregate(state: ExpertState, max_rank: int, rule: Rule) -> tuple[Factors, float]:
    parts = [part for _, part in sorted(state.components.items())]
    if not parts:
        return {path: (b[:, :0], a[:0]) for path, (b, a) in state.aggregate.items()}, 0.0
    weights = rule.weights(parts)
    aggregate: Factors = {}
    wrong, total = 0.0, 0.0
    for path in sorted(state.aggregate):
        terms = rule.terms([(*part.factors[path], part.scale) for part in parts], weights)
        b, a = (factor.float() for factor in delta.aggregate(terms, max_rank))
        aggregate[path] = (b, a)
        wrong += delta.norm([*terms, (b, a, -1.0)]) ** 2
        total += delta.norm(terms) ** 2
    return aggregate, (wrong / total) ** 0.5 if total else 0.0
