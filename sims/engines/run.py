"""Runs a scenario with any engine and writes its report."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fedmore.experts.errors import ConfigError
from fedmore.sims.catalogue import scenario as scenario_of
from fedmore.sims.engines.prepare import Prepared, prepare
from fedmore.sims.scenarios.scenario import Scenario

if TYPE_CHECKING:
    from fedmore.sims.report.build import Written
    from fedmore.sims.report.schema import Report

ENGINES = ("grpc", "local", "ray")


def simulate(
    scenario: Scenario | str,
    out: Path | str,
    *,
    engine: str = "local",
    seed: int | None = None,
    settings: Iterable[str] = (),
) -> "Report":
    """Run a scenario, given as an object or by name, in the new folder `out`; returns its report.

    `settings` change keys of federation.toml, as `fedmore sim run --set` does. Raises `ConfigError`
    for a wrong setting, before anything is written.
    """
    chosen = scenario_of(scenario) if isinstance(scenario, str) else scenario
    prepared = prepare(chosen, Path(out), seed=seed, settings=settings)
    return run(prepared, engine, Console()).report


def run(prepared: Prepared, engine: str, console: Console) -> "Written":
    """Run the plan of `prepared`, write its report beside the registry, and show the result."""
    start = time.monotonic()
    if engine == "grpc":
        from fedmore.sims.engines import grpc

        grpc.run(prepared)
    elif engine == "local":
        from fedmore.sims.engines import local

        local.run(prepared)
    elif engine == "ray":
        from fedmore.sims.engines import ray

        ray.run(prepared)
    else:
        raise ConfigError(f"no engine is called {engine!r}; there are {', '.join(ENGINES)}")
    return _report(prepared, engine, time.monotonic() - start, console)


def _report(prepared: Prepared, engine: str, wall_s: float, console: Console) -> "Written":
    from fedmore.sims.report.build import write_report
    from fedmore.sims.report.summary import summary_table

    written = write_report(
        prepared.directory,
        scenario=prepared.scenario.name,
        engine=engine,
        seed=prepared.config.federation.seed,
        wall_s=wall_s,
    )
    console.print(summary_table(written))
    return written
