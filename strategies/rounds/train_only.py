"""Strategies whose clients train and never evaluate."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmore.strategies.rounds.quorum_grid import RoundGrid


class TrainOnly(Strategy):
    """The half of Flower's Strategy that ours leave empty."""

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody: the coordinator scores on held-out text that it may see."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return nothing; clients do not evaluate."""
        return None

    def summary(self) -> None:
        """Nothing to log: the coordinator's console shows the plan."""


class RoundStrategy(TrainOnly):
    """A strategy that says itself how its rounds wait for clients."""

    def patient(self, grid: Grid) -> RoundGrid:
        """`grid` as this stage waits on it; give it to `start`."""
        raise NotImplementedError
