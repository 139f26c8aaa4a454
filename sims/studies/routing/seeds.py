"""One seed of the study: the federation, then every router over its experts.

Finished results are in ``<out>/seed-<n>/trials/``, one file per router, so a stopped study
continues.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from fedmore.coordinator.config.schema import load_config
from fedmore.experts.errors import ConfigError
from fedmore.sims.engines.prepare import Prepared, prepare
from fedmore.sims.engines.run import run as run_scenario
from fedmore.sims.scenarios.scenario import Scenario
from fedmore.sims.studies.finished import kept
from fedmore.sims.studies.routing import changes, cost, estimator, positions, trial
from fedmore.sims.studies.routing.clients import trained_by_clients
from fedmore.sims.studies.routing.material import Material, load
from fedmore.sims.studies.routing.tables import Shared
from fedmore.sims.studies.routing.trial import Nats, Trial
from fedmore.sims.studies.routing.variants import CLIENTS, Size, Variant

PARTS: Mapping[str, Callable[[Material, Size, int], Any]] = {
    "added": changes.added,
    "withdrawn": changes.withdrawn,
    "variance": estimator.variance,
    "cost": cost.cost,
    "positions": positions.positions,
}
"""The parts that are measured beside the routers."""

Keep = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class SeedResult:
    """The results of one seed; `unseen` is the text without an expert.

    `sizes` are the bytes of every scored document.
    """

    seed: int
    base_name: str
    experts: list[str]
    unseen: str
    size: dict[str, Any]
    sizes: dict[str, list[int]]
    base: Nats
    oracle: Nats
    trials: list[Trial]
    parts: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """The federation, the routers over it, and `settings` that change the federation."""

    scenario: Scenario
    variants: tuple[Variant, ...]
    size: Size
    unseen: str
    out: Path
    say: Callable[[str], None]
    engine: str = "local"
    settings: Sequence[str] = ()
    parts: Sequence[str] = tuple(PARTS)


def federation(study: Study, seed: int) -> Prepared:
    """The seed's finished federation, which is run now if it is missing."""
    directory = study.out / f"seed-{seed}"
    if not (directory / "report.json").is_file():
        study.say(f"seed {seed}: training the experts")
        prepared = prepare(study.scenario, directory, seed=seed, settings=study.settings)
        run_scenario(prepared, study.engine, Console(quiet=True))
    return Prepared(study.scenario, directory, load_config(directory))


def run_seed(study: Study, seed: int) -> SeedResult:
    """Run every router of one seed, and the chosen parts."""
    prepared, size = federation(study, seed), study.size
    material, folder = load(prepared.directory, size), prepared.directory / "trials"

    def keep(name: str, compute: Callable[[], Any]) -> Any:
        return kept(folder / f"{name}.json", compute, lambda _: study.say(f"seed {seed}: {name}"))

    if (before := keep("size", lambda: asdict(size))) != asdict(size):
        raise ConfigError(f"{folder}: made with {before}; remove it, or ask for the same")
    return SeedResult(
        seed, Path(material.base.name).name, list(material.experts), study.unseen, asdict(size),
        trial.sizes(material, size),
        base=keep("base", lambda: trial.score_all(material.base.model, material, size)),
        oracle=keep("oracle", lambda: trial.oracle(material, size)),
        trials=_trials(study, prepared, material, seed, keep),
        parts={name: keep(name, partial(PARTS[name], material, size, seed))
               for name in study.parts},
    )  # fmt: skip


def _trials(
    study: Study, prepared: Prepared, material: Material, seed: int, keep: Keep
) -> list[Trial]:
    shared = Shared()

    def tried(variant: Variant) -> dict[str, Any]:
        if variant.trained_at == CLIENTS:
            return asdict(_at_clients(study, prepared, material, variant, seed))
        return asdict(trial.run(material, variant, study.size, seed, shared))

    return [Trial(**keep(v.slug, partial(tried, v))) for v in study.variants]


def _at_clients(
    study: Study, prepared: Prepared, material: Material, variant: Variant, seed: int
) -> Trial:
    router, losses = trained_by_clients(material, prepared, variant, study.size, seed)
    found = trial.measured(trial.mixed(material, router), material, variant, study.size, None)
    found.losses = losses
    return found
