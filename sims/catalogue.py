"""The tables of scenarios and studies by name; a new one is a new row."""

from collections.abc import Callable
from pathlib import Path

from fedmore.experts.errors import ConfigError
from fedmore.sims.scenarios.quickstart import quickstart
from fedmore.sims.scenarios.routing import routing
from fedmore.sims.scenarios.scenario import Scenario
from fedmore.sims.scenarios.smoke import smoke

SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "quickstart": quickstart,
    "routing": routing,
    "smoke": smoke,
}


def _routing_study() -> Callable[..., Path]:
    """The routing study: five experts of SmolLM2-135M, every router, three seeds."""
    from fedmore.sims.studies.routing.study import run  # imports torch

    return run


def _participation() -> Callable[..., Path]:
    """Owners who join, stay away, are late or withdraw, compared with FedAvg of the changes."""
    from fedmore.sims.studies.rounds.participation import STUDY

    return STUDY.run


def _round_start() -> Callable[..., Path]:
    """Start of a round and outer momentum, compared with training on all text in one place."""
    from fedmore.sims.studies.rounds.round_start import STUDY

    return STUDY.run


def _rank_scaling() -> Callable[..., Path]:
    """Scaling of factors by rank, at three learning rates."""
    from fedmore.sims.studies.rounds.rank_scaling import STUDY

    return STUDY.run


def _nested_ranks() -> Callable[..., Path]:
    """One training whose every prefix works, beside cuts by SVD and training of each rank."""
    from fedmore.sims.studies.rounds.nested_ranks import STUDY

    return STUDY.run


def _crowd() -> Callable[..., Path]:
    """A hundred owners of one expert: traffic, memory and time, with and without limits."""
    from fedmore.sims.studies.crowd.study import run

    return run


def _embedding_inversion() -> Callable[..., Path]:
    from fedmore.sims.studies.embedding_inversion.study import run

    return run


STUDIES: dict[str, Callable[[], Callable[..., Path]]] = {
    "routing": _routing_study,
    "participation": _participation,
    "round-start": _round_start,
    "rank-scaling": _rank_scaling,
    "nested-ranks": _nested_ranks,
    "crowd": _crowd,
    "embedding-inversion": _embedding_inversion,
}
"""Studies of many runs for `fedmore sim run`; `fedmore sim list` shows each docstring."""


def scenario(name: str) -> Scenario:
    """Look up a scenario; raises `ConfigError`, which lists the known names, if there is none."""
    if name not in SCENARIOS:
        known = ", ".join(SCENARIOS | STUDIES)
        raise ConfigError(f"no scenario or study is called {name!r}; there are {known}")
    return SCENARIOS[name]()
