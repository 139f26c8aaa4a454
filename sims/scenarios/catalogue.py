"""Every scenario by name; adding one is adding a row."""

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
    from fedmore.sims.routing.study import run  # imports torch

    return run


def _participation() -> Callable[..., Path]:
    from fedmore.sims.rounds.participation import STUDY

    return STUDY.run


def _round_start() -> Callable[..., Path]:
    from fedmore.sims.rounds.round_start import STUDY

    return STUDY.run


def _rank_scaling() -> Callable[..., Path]:
    from fedmore.sims.rounds.rank_scaling import STUDY

    return STUDY.run


STUDIES: dict[str, Callable[[], Callable[..., Path]]] = {
    "routing": _routing_study,
    "participation": _participation,
    "round-start": _round_start,
    "rank-scaling": _rank_scaling,
}
"""What `fedmore sim run` does for a scenario that is one of many runs."""


def scenario(name: str) -> Scenario:
    """The scenario called `name`; raises `ConfigError` that lists those there are."""
    if name not in SCENARIOS:
        raise ConfigError(f"no scenario is called {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]()
