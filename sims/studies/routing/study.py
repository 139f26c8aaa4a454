"""The routing study from end to end: `fedmore sim run routing`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from fedmore.sims.scenarios.routing import routing
from fedmore.sims.scenarios.smoke import smoke
from fedmore.sims.studies.routing import results, shown
from fedmore.sims.studies.routing.options import with_settings
from fedmore.sims.studies.routing.plots import draw
from fedmore.sims.studies.routing.seeds import Study, run_seed
from fedmore.sims.studies.routing.variants import FULL, QUICK, VARIANTS

SEEDS = (0, 1, 2)


def run(
    *,
    out: Path,
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    engine: str = "local",
    settings: Sequence[str] = (),
    results_in: Path | None = None,
    console: Console,
) -> Path:
    """Run what is missing, write `routing.json` and the plots; returns the JSON's path.

    Args:
        out: the study's folder.
        seeds: the seeds, by default 0, 1 and 2.
        quick: whether to use the tiny base of `smoke` and one seed, from end to end.
        engine: the engine of the federation.
        settings: `study.KEY=VALUE` changes the study, any other key its federation.
        results_in: folder for JSON and plots, by default `out`.
        console: shows the progress.

    """
    seeds = seeds or (SEEDS[:1] if quick else SEEDS)
    study = Study(
        smoke() if quick else routing(), VARIANTS, QUICK if quick else FULL,
        "sums" if quick else "es", out, console.print, engine,
    )  # fmt: skip
    study = with_settings(study, settings)
    torch.manual_seed(0)
    found = results.build([run_seed(study, seed) for seed in seeds])
    folder = results_in or out
    path = results.write(found, folder)
    draw(found, folder)
    console.print(shown.routers_table(found))
    console.print(shown.claims_table(found["claims"]))
    return path
