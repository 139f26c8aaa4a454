"""The geometric median of the owners' changes (RFA, arXiv 1912.13445), as an aggregation rule.

It withstands up to half of the weight in hostile hands, and gives every owner a share of its own,
so that an owner's withdrawal stays exact.
"""

from collections.abc import Sequence

import torch

from fedmore.strategies import Change, FactorStage, Mean, cores_of

ITERATIONS = 50
SMALLEST = 1e-6  # of the largest distance, so that no share is divided by 0


class GeometricMedian(Mean):
    """Shares that make the step the point with the least sum of distances (Weiszfeld)."""

    def weights(self, changes: Sequence[Change]) -> list[float]:
        """Every owner's share; it begins at that of the mean, by size of text."""
        sizes = torch.tensor(super().weights(changes), dtype=torch.float64)
        if len(changes) < 3:
            return sizes.tolist()
        _, cores = cores_of(changes)  # small matrices in one basis; distances are the changes'
        rows = torch.stack([torch.cat([c.flatten() for c in each.values()]) for each in cores])
        shares = sizes
        for _ in range(ITERATIONS):
            distances = (rows - shares @ rows).norm(dim=1)
            near = distances.clamp_min(SMALLEST * float(distances.max()) or 1.0)
            shares = sizes / near
            shares = shares / shares.sum()
        return shares.tolist()


def of_stage(stage: FactorStage) -> GeometricMedian:
    """The rule of a stage; a rule may read any of the stage's settings."""
    return GeometricMedian(max_client_weight=stage.max_client_weight)
