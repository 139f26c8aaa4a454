"""Rounds of a stage of experts over clients of the tests."""

from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fedmore.strategies.expert_stage.progress import Progress
from fedmore.strategies.expert_stage.strategy import ExpertStrategy


def train(
    shapes: Any, log: Any, grid: Grid, stage: Any, rounds: int, states: Any = None, done: int = 0
) -> tuple[ExpertStrategy, Any]:
    """Train on from round `done`; returns the strategy and the `log` of its rounds."""
    strategy = ExpertStrategy(stage, shapes, 7, log, Progress(done, states or {}))
    strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=rounds, timeout=0.2)
    return strategy, log
