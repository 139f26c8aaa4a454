"""What the coordinator keeps of an expert between rounds, and the step from round to round.

Every client k has a *component* ``s B_k A_k`` of its own rank, which coordinator and client both
hold (mirrored). The expert's *aggregate* is ``D = sum_k p_k s B_k A_k``, kept at full rank. In a
round a client starts from ``D``, moves its component, and sends the change of its factors; the
aggregate moves by ``sum_k p_k s (B'_k A'_k - B_k A_k)``, exactly. Nothing is truncated on the way
to a client of lower rank, so there is no rank collapse (FACTS, aggregation).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedmore.experts.factors import Factors, empty, from_state, to_state
from fedmore.experts.spec import Site
from fedmore.kernels.delta import cpu as delta
from fedmore.kernels.determinism import one_thread


@dataclass(frozen=True)
class Component:
    """A client's mirrored factors and how many updates made them."""

    factors: Factors
    updates: int = 0


@dataclass(frozen=True)
class ExpertState:
    """One expert at the coordinator: the aggregate and every client's component."""

    name: str
    kind: str
    aggregate: Factors
    components: Mapping[str, Component] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Largest rank of the aggregate over its matrices."""
        return max(a.shape[0] for _, a in self.aggregate.values())


@dataclass(frozen=True)
class Contribution:
    """A client's factors after a round; `weight` is p_k, `scale` the s of its rank."""

    client: str
    before: Factors
    after: Factors
    weight: float
    scale: float


def fresh(name: str, kind: str, sites: Sequence[Site]) -> ExpertState:
    """An expert that changes nothing yet."""
    return ExpertState(name, kind, empty(sites))


def advance(
    state: ExpertState, contributions: Sequence[Contribution], max_rank: int
) -> tuple[ExpertState, float]:
    """The state after a round, and the relative Frobenius error of its aggregate.

    The error is against the exact weighted sum of what the clients sent: rounding, and what a
    `max_rank` below the sum of ranks cuts off.
    """
    with one_thread():
        aggregate, error = _aggregate(state, contributions, max_rank)
    components = dict(state.components)
    for item in contributions:
        earlier = components.get(item.client, Component(item.before))
        components[item.client] = Component(item.after, earlier.updates + 1)
    return replace(state, aggregate=aggregate, components=components), error


def _aggregate(
    state: ExpertState, contributions: Sequence[Contribution], max_rank: int
) -> tuple[Factors, float]:
    aggregate: Factors = {}
    wrong, total = 0.0, 0.0
    for path, old in sorted(state.aggregate.items()):  # `restore` knows no other order
        terms = _terms(path, old, contributions)
        b, a = (factor.float() for factor in delta.aggregate(terms, max_rank))
        aggregate[path] = (b, a)
        wrong += delta.norm([*terms, (b, a, -1.0)]) ** 2
        total += delta.norm(terms) ** 2
    return aggregate, (wrong / total) ** 0.5 if total else 0.0


def _terms(
    path: str, old: tuple[Tensor, Tensor], contributions: Sequence[Contribution]
) -> list[delta.Term]:
    terms: list[delta.Term] = [(*old, 1.0)]
    for item in contributions:
        weight = item.weight * item.scale
        terms.append((*item.after[path], weight))
        terms.append((*item.before[path], -weight))
    return terms


def dump(states: Mapping[str, ExpertState]) -> bytes:
    """All states as one safetensors file: what a restarted coordinator goes on from."""
    tensors: dict[str, Tensor] = {}
    index: dict[str, dict[str, object]] = {}
    for name, state in states.items():
        updates = {client: part.updates for client, part in state.components.items()}
        index[name] = {"kind": state.kind, "updates": updates}
        tensors |= _prefixed(f"{name}\n", state.aggregate)
        for client, part in state.components.items():
            tensors |= _prefixed(f"{name}\n{client}\n", part.factors)
    blob: bytes = save({**tensors, "index": _text(json.dumps(index))})
    return blob


def restore(data: bytes) -> dict[str, ExpertState]:
    """The inverse of `dump`."""
    tensors: dict[str, Tensor] = load(data)
    index = json.loads(bytes(tensors.pop("index").tolist()))
    states = {}
    for name, entry in index.items():
        components = {
            client: Component(_under(f"{name}\n{client}\n", tensors), updates)
            for client, updates in entry["updates"].items()
        }
        states[name] = ExpertState(name, entry["kind"], _under(f"{name}\n", tensors), components)
    return states


def _prefixed(prefix: str, factors: Factors) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in to_state(factors).items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Factors:
    cut = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    return from_state({key: t for key, t in cut.items() if "\n" not in key})


def _text(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
