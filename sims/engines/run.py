"""One run, by whichever engine, and its report."""

import time

from rich.console import Console

from fedmore.experts.errors import ConfigError
from fedmore.sims.engines.prepare import Prepared

ENGINES = ("grpc", "local", "ray")


def run(prepared: Prepared, engine: str, console: Console) -> None:
    """Run the plan of `prepared`, write its report next to the registry, and show the result."""
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
    _report(prepared, engine, time.monotonic() - start, console)


def _report(prepared: Prepared, engine: str, wall_s: float, console: Console) -> None:
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
