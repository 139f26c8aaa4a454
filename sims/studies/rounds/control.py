"""FedAvg of the changes of the owners who are present, dense in float64: the control."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmore.experts.factors import Factors
from fedmore.experts.spec import scale_at
from fedmore.kernels.lowrank_sum import cpu as delta
from fedmore.strategies.expert_stage.changes import Change


class Control:
    """The dense sum of every owner's changes, matrix by matrix."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, Tensor]] = {}

    def round(self, changes: Sequence[Change]) -> None:
        """Add a round's changes, each with its share of the round."""
        total = sum(change.size for change in changes)
        for change in changes:
            part = self.parts.setdefault(change.client, {})
            share = change.size / total * change.fresh if total else 0.0
            for path, after in change.after.items():
                before = change.before[path]
                step = delta.matrix([delta.term(after, 1.0), delta.term(before, -1.0)])
                weight = share * scale_at(change.scale, path)
                part[path] = part.get(path, torch.zeros_like(step)) + weight * step

    def withdraw(self, name: str) -> None:
        """Take out an owner's part."""
        self.parts.pop(name, None)

    def change(self) -> Factors:
        """The sum as factors ``dense @ 1``, where nothing is cut off; empty without parts."""
        found: Factors = {}
        for path in sorted({path for part in self.parts.values() for path in part}):
            dense = torch.stack([part[path] for part in self.parts.values()]).sum(0)
            found[path] = dense.float(), torch.eye(dense.shape[1])
        return found
