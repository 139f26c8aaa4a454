"""Every scenario by name; adding one is adding a row."""

from collections.abc import Callable

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


def scenario(name: str) -> Scenario:
    """The scenario called `name`; raises `ConfigError` that lists those there are."""
    if name not in SCENARIOS:
        raise ConfigError(f"no scenario is called {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]()
