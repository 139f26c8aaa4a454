"""How the changes of a round become one step of an expert, also if some owners are hostile.

A rule judges the *changes* of this round, never what owners have accumulated: the distance between
components is mostly that between their random starts, and Krum on them locks on to one owner.

Krum, multi-Krum (arXiv 1703.02757), the trimmed mean and the median (arXiv 1803.01498) are Flower's
own. They are given small matrices in a basis that all owners share (`strategies.cores`), not the
products. Krum chooses the same owner as on the products; trimmed mean and median are taken
coordinate by coordinate in that basis, where the paper takes them in the basis of the weights.
None of the four weighs owners by the size of their text, which they could lie about. Flower clips
norms only inside its strategies for differential privacy, which average in the same step and do
not say what an owner's share was; `Clipped` is therefore ours.

A rule that is `separable` gives every owner a share of the step. What trimmed mean and median make
is nobody's in particular: it is kept as a contribution of all, and withdrawal is not exact.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from torch import Tensor

from fedmore.experts.errors import ConfigError
from fedmore.kernels.lowrank_sum.cpu import Term
from fedmore.strategies.expert_stage.changes import Change, Terms
from fedmore.strategies.expert_stage.cores import Basis, cores_of
from fedmore.strategies.stages.expert import RULES, FactorStage

MARK = 1e-30
"""Marks whose arrays are whose; its square is lost in any distance."""


@runtime_checkable
class Rule(Protocol):
    """From the changes of a round to what each of them counts."""

    @property
    def separable(self) -> bool:
        """Whether every part of a step is an owner's, so that a withdrawal is exact."""
        ...

    @property
    def selects(self) -> bool:
        """Whether it leaves owners out, so that it is worth a word if they are always the same."""
        ...

    def weights(self, changes: Sequence[Change]) -> list[float]:
        """The share of each change in the step, before what came late counts less."""
        ...

    def merged(self, changes: Sequence[Change]) -> Terms:
        """The part of the step that cannot be told apart by owner."""
        ...


@dataclass(frozen=True)
class Mean:
    """The mean, weighted by the size of texts; no owner has more than `max_client_weight` of it."""

    max_client_weight: float = field(default=1.0, kw_only=True)
    selects: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    def weights(self, changes: Sequence[Change]) -> list[float]:
        """In proportion to the size of the owners' texts."""
        return shares([change.size for change in changes], self.max_client_weight)

    def merged(self, changes: Sequence[Change]) -> Terms:
        """Every part of a mean is an owner's."""
        return {}


@dataclass(frozen=True)
class Clipped(Mean):
    """The mean of changes whose Frobenius norm is at most `norm`; 0 takes the round's median."""

    norm: float = 0.0

    def weights(self, changes: Sequence[Change]) -> list[float]:
        """Shares of the mean, less for an owner whose change is too large."""
        _, cores = cores_of(changes)
        norms = [sum(float(core.norm()) ** 2 for core in each.values()) ** 0.5 for each in cores]
        most = self.norm or median(norms)
        pairs = zip(super().weights(changes), norms, strict=True)
        return [share * min(1.0, most / norm) if norm else share for share, norm in pairs]


@dataclass(frozen=True)
class Krum(Mean):
    """Krum: the owner whose change is nearest to those of most others."""

    malicious_fraction: float = 0.2
    selects: ClassVar[bool] = True

    def strategy(self, count: int) -> flower.Strategy:
        """Flower's strategy for `count` owners."""
        return flower.Krum(num_malicious_nodes=int(self.malicious_fraction * count))

    def weights(self, changes: Sequence[Change]) -> list[float]:
        """1 for the chosen owner, 0 for the others; of several chosen ones the same for each."""
        _, cores = cores_of(changes)
        rows = [{path: core.numpy() for path, core in sorted(each.items())} for each in cores]
        for index, row in enumerate(rows):
            row["owner"] = MARK * np.eye(len(changes))[index]
        marks = ask(self.strategy(len(changes)), rows)["owner"]
        chosen = marks > MARK / (2 * len(changes))
        return [float(one) / int(chosen.sum()) for one in chosen]


@dataclass(frozen=True)
class MultiKrum(Krum):
    """Multi-Krum: the mean of the owners that Krum finds best, as many as are not hostile."""

    def strategy(self, count: int) -> flower.Strategy:
        """Flower's strategy for `count` owners."""
        hostile = int(self.malicious_fraction * count)
        return flower.MultiKrum(num_malicious_nodes=hostile, num_nodes_to_select=count - hostile)


@dataclass(frozen=True)
class TrimmedMean(Mean):
    """The mean without the smallest and largest of every coordinate."""

    malicious_fraction: float = 0.2
    separable: ClassVar[bool] = False

    def strategy(self) -> flower.Strategy:
        """Flower's strategy."""
        return flower.FedTrimmedAvg(beta=self.malicious_fraction)

    def weights(self, changes: Sequence[Change]) -> list[float]:
        """No owner has a share of its own."""
        return [0.0] * len(changes)

    def merged(self, changes: Sequence[Change]) -> Terms:
        """One term for each matrix: the trimmed core between the shared bases."""
        if not changes:
            return {}
        bases, cores = cores_of(changes, fresh=True)
        rows = [{path: core.numpy() for path, core in sorted(each.items())} for each in cores]
        found = ask(self.strategy(), rows)
        return {
            path: [_term(basis, torch.from_numpy(found[path]))] for path, basis in bases.items()
        }


def _term(basis: Basis, core: Tensor) -> Term:
    if basis is None:
        return core, 1.0
    q_b, q_a = basis
    return q_b @ core, q_a.T, 1.0


@dataclass(frozen=True)
class Median(TrimmedMean):
    """The median of every coordinate."""

    def strategy(self) -> flower.Strategy:
        """Flower's strategy."""
        return flower.FedMedian()


MEAN = Mean()


MAKERS: Mapping[str, Callable[[FactorStage], Rule]] = {
    "mean": lambda stage: Mean(max_client_weight=stage.max_client_weight),
    "clipped": lambda stage: Clipped(stage.clip_norm, max_client_weight=stage.max_client_weight),
    "krum": lambda stage: Krum(stage.malicious_fraction),
    "multi_krum": lambda stage: MultiKrum(stage.malicious_fraction),
    "trimmed_mean": lambda stage: TrimmedMean(stage.malicious_fraction),
    "median": lambda stage: Median(stage.malicious_fraction),
}
"""How the rule of every name is made for a stage; plugins add to them (`RULES`)."""


def rule_of(stage: FactorStage) -> Rule:
    """The rule that a stage names; a plugin's is imported, or `ConfigError` raised."""
    name = stage.aggregation
    if name in MAKERS:
        return MAKERS[name](stage)
    made: Any = RULES.load(name, lambda found: "" if callable(found) else "cannot be called")
    rule = made(stage)
    if not isinstance(rule, Rule):
        raise ConfigError(
            f"plugin {RULES.plugins[name]}: what it makes of a stage is a {type(rule).__name__}, "
            "not a rule with selects, separable, weights and merged"
        )
    return rule


def shares(weights: Sequence[float], most: float = 1.0) -> list[float]:
    """Parts of a whole in proportion to `weights`, none above `most`, or above an equal share.

    What is cut off goes to the others, in proportion. If all weights are 0, so are the parts.
    """
    if not any(weight > 0 for weight in weights):
        return [0.0] * len(weights)
    limit, capped = max(most, 1 / sum(weight > 0 for weight in weights)), set[int]()
    while True:
        rest = sum(weight for index, weight in enumerate(weights) if index not in capped)
        left = 1 - limit * len(capped)
        found = [
            limit if index in capped else weight / rest * left
            for index, weight in enumerate(weights)
        ]
        above = {index for index, share in enumerate(found) if share > limit * (1 + 1e-12)}
        if not above:
            return found
        capped |= above


def ask(
    strategy: flower.Strategy, rows: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What Flower's `strategy` makes of the owners' arrays."""
    replies = []
    for index, row in enumerate(rows):
        arrays = ArrayRecord({name: Array(values) for name, values in row.items()})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        replies.append(Message(content, dst_node_id=index, message_type="train"))
    found, _ = strategy.aggregate_train(1, replies)
    if found is None:
        raise RuntimeError("the strategy took none of the owners' arrays")
    return {name: array.numpy() for name, array in found.items()}
