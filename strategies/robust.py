"""How the components of an expert's owners become one aggregate, also where some are hostile.

Krum (arXiv 1703.02757) and the trimmed mean (arXiv 1803.01498) are Flower's own. They are given
small matrices, not products: with orthonormal bases Q_B and Q_A of all owners' factors, every
product is ``s_k B_k A_k = Q_B C_k Q_A^T``, and distances between the cores C_k are distances
between the products. Krum chooses the same owner as it would on the products; the trimmed mean is
taken coordinate by coordinate in that basis, where the paper takes it in the basis of the weights.
Neither weighs owners by the size of their text, which they could lie about.

The bases are the left singular vectors of the owners' B side by side, and of their A likewise.
These are the eigenvectors of ``sum_k B_k B_k^T``, so the owners' order, which their names decide,
shows in nothing but signs, and turning a coordinate's sign only turns that of its trimmed mean. (In
the bases of a QR, which follow the order, most coordinates were one owner's alone, and trimmed.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedTrimmedAvg, Krum, Strategy
from torch import Tensor

from fedmore.strategies.plan import Stage

if TYPE_CHECKING:
    from fedmore.strategies.state import Component

Term = tuple[Tensor, Tensor, float]  # B [m, r], A [r, n], factor

MARK = 1e-30
"""Marks whose arrays are whose; its square is lost in any distance."""


class Rule(Protocol):
    """From owners' components to the terms whose sum is the aggregate."""

    def weights(self, parts: Sequence["Component"]) -> list[float]:
        """What each component counts; they sum to 1."""
        ...

    def terms(self, products: Sequence[Term], weights: Sequence[float]) -> list[Term]:
        """The aggregate of one matrix as a sum, given every owner's ``s_k B_k A_k`` of it."""
        ...


@dataclass(frozen=True)
class Mean:
    """The mean, weighted by the components' weights; none has more than `max_share` of it."""

    max_share: float = field(default=1.0, kw_only=True)

    def weights(self, parts: Sequence["Component"]) -> list[float]:
        """In proportion to what each component brings."""
        return shares([part.weight for part in parts], self.max_share)

    def terms(self, products: Sequence[Term], weights: Sequence[float]) -> list[Term]:
        """One term for each owner."""
        pairs = zip(products, weights, strict=True)
        return [(b, a, scale * weight) for (b, a, scale), weight in pairs if weight]


@dataclass(frozen=True)
class OneOwner(Mean):
    """Krum: the owner whose component is nearest to those of most others."""

    hostile: float = 0.2

    def weights(self, parts: Sequence["Component"]) -> list[float]:
        """1 for the chosen owner, 0 for the others."""
        rows: list[dict[str, np.ndarray]] = [{} for _ in parts]
        for path in sorted(parts[0].factors):
            _, _, cores = shared_basis([(*part.factors[path], part.scale) for part in parts])
            for row, core in zip(rows, cores, strict=True):
                row[path] = core.numpy()
        for index, row in enumerate(rows):
            row["owner"] = MARK * np.eye(len(parts))[index]
        krum = Krum(num_malicious_nodes=int(self.hostile * len(parts)))
        chosen = int(ask(krum, rows)["owner"].argmax())
        return [float(index == chosen) for index in range(len(parts))]


@dataclass(frozen=True)
class TrimmedMean(Mean):
    """The mean without the smallest and largest of every coordinate."""

    hostile: float = 0.2

    def weights(self, parts: Sequence["Component"]) -> list[float]:
        """Every owner the same."""
        return [1 / len(parts)] * len(parts)

    def terms(self, products: Sequence[Term], weights: Sequence[float]) -> list[Term]:
        """One term: the trimmed core between the shared bases."""
        q_b, q_a, cores = shared_basis(products)
        rows = [{"core": core.numpy()} for core in cores]
        core = torch.from_numpy(ask(FedTrimmedAvg(beta=self.hostile), rows)["core"])
        return [(q_b @ core, q_a.T, 1.0)]


MEAN = Mean()


def rule_of(stage: Stage) -> Rule:
    """The rule that a stage names."""
    rules: dict[str, Rule] = {
        "mean": Mean(max_share=stage.max_share),
        "krum": OneOwner(stage.hostile),
        "trimmed_mean": TrimmedMean(stage.hostile),
    }
    return rules[stage.aggregation]


def unguarded(stage: Stage, owners: Mapping[str, int]) -> list[str]:
    """What to tell an operator whose rule has too few owners of an expert to cut anybody off."""
    if stage.aggregation == "mean" or not stage.hostile:
        return []
    return [
        f"{name}: {stage.aggregation} withstands no hostile owner: {count} "
        f"{'owner is' if count == 1 else 'owners are'} fewer than 1 / hostile ({stage.hostile})"
        for name, count in sorted(owners.items())
        if not int(stage.hostile * count)
    ]


def shares(weights: Sequence[float], most: float = 1.0) -> list[float]:
    """Parts of a whole in proportion to `weights`, none above `most`, or above an equal share.

    What is cut off goes to the others, in proportion.
    """
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


def shared_basis(products: Sequence[Term]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Q_B [m, R], Q_A [n, R] and every C_k [R, R], float64, with ``s B_k A_k = Q_B C_k Q_A^T``."""
    ranks = [b.shape[1] for b, _, _ in products]
    q_b, r_b = singular(torch.cat([b.double() for b, _, _ in products], dim=1))
    q_a, r_a = singular(torch.cat([a.double().T for _, a, _ in products], dim=1))
    pairs = zip(torch.split(r_b, ranks, 1), torch.split(r_a, ranks, 1), products, strict=True)
    return q_b, q_a, [scale * left @ right.T for left, right, (_, _, scale) in pairs]


def singular(stacked: Tensor) -> tuple[Tensor, Tensor]:
    """The left singular vectors of a matrix, and the matrix in their basis."""
    q, r = torch.linalg.qr(stacked)
    u = torch.linalg.svd(r, full_matrices=False).U
    return q @ u, u.T @ r


def ask(strategy: Strategy, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
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
