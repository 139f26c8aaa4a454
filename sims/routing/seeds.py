"""One seed of the study: the federation, then every router over its experts.

What is done is in ``<out>/seed-<n>/trials/``, one file a router: a study that was stopped goes on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from fedmore.coordinator.config import load_config
from fedmore.sims.engines.prepare import Prepared, prepare
from fedmore.sims.engines.run import run as run_scenario
from fedmore.sims.routing import changes, cost, estimator, positions, trial
from fedmore.sims.routing.clients import trained_by_clients
from fedmore.sims.routing.material import Material, load
from fedmore.sims.routing.tables import Shared
from fedmore.sims.routing.trial import Scores, Trial
from fedmore.sims.routing.variants import CLIENTS, Size, Variant
from fedmore.sims.scenarios.scenario import Scenario


@dataclass(frozen=True)
class SeedResult:
    """All of one seed; `unseen` is the text that nobody trained on."""

    seed: int
    base_name: str
    experts: list[str]
    unseen: str
    size: dict[str, Any]
    base: Scores
    oracle: Scores
    trials: list[Trial]
    added: dict[str, Any]
    withdrawn: dict[str, Any]
    variance: dict[str, float]
    cost: dict[str, Any]
    positions: list[dict[str, float]]

    def mean(self, scores: Scores) -> float:
        """Over the experts' own texts."""
        return sum(scores[name] for name in self.experts) / len(self.experts)


@dataclass(frozen=True)
class Study:
    """What is run: the federation, and the routers over it; `settings` change the federation's."""

    scenario: Scenario
    variants: tuple[Variant, ...]
    size: Size
    unseen: str
    out: Path
    say: Callable[[str], None]
    engine: str = "local"
    settings: Sequence[str] = ()


def federation(study: Study, seed: int) -> Prepared:
    """The seed's finished federation, run now if it is not there."""
    directory = study.out / f"seed-{seed}"
    if not (directory / "report.json").is_file():
        study.say(f"seed {seed}: training the experts")
        prepared = prepare(study.scenario, directory, seed=seed, settings=study.settings)
        run_scenario(prepared, study.engine, Console(quiet=True))
    return Prepared(study.scenario, directory, load_config(directory))


def run_seed(study: Study, seed: int) -> SeedResult:
    """Every router of one seed."""
    prepared, size = federation(study, seed), study.size
    material = load(prepared.directory, size)
    kept = Kept(prepared.directory / "trials", study.say, f"seed {seed}")
    base = kept.get("base", lambda: trial.score_all(material.base.model, material, size))
    oracle = kept.get("oracle", lambda: trial.oracle(material, size))
    return SeedResult(
        seed, Path(material.base.name).name, list(material.experts), study.unseen, asdict(size),
        base, oracle, _trials(study, prepared, material, seed, kept),
        added=kept.get("added", lambda: changes.added(material, size, seed)),
        withdrawn=kept.get("withdrawn", lambda: changes.withdrawn(material, size, seed)),
        variance=kept.get("variance", lambda: estimator.variance(material, size, seed)),
        cost=kept.get("cost", lambda: cost.cost(material, size, seed)),
        positions=kept.get("positions", lambda: positions.positions(material, size, seed)),
    )  # fmt: skip


def _trials(
    study: Study, prepared: Prepared, material: Material, seed: int, kept: "Kept"
) -> list[Trial]:
    shared = Shared()

    def tried(variant: Variant) -> dict[str, Any]:
        if variant.trained_at == CLIENTS:
            return asdict(_at_clients(study, prepared, material, variant, seed))
        return asdict(trial.run(material, variant, study.size, seed, shared))

    return [Trial(**kept.get(v.slug, partial(tried, v))) for v in study.variants]


def _at_clients(
    study: Study, prepared: Prepared, material: Material, variant: Variant, seed: int
) -> Trial:
    router, losses = trained_by_clients(material, prepared, variant, study.size, seed)
    found = trial.measured(trial.mixed(material, router), material, variant, study.size, None)
    found.losses = losses
    return found


@dataclass(frozen=True)
class Kept:
    """Results as files: what is there is not computed again."""

    folder: Path
    say: Callable[[str], None]
    where: str

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The result `name`."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            self.say(f"{self.where}: {name}")
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(compute())
            path.with_suffix(".writing").write_text(text, encoding="utf-8")
            path.with_suffix(".writing").replace(path)
        return json.loads(path.read_text(encoding="utf-8"))
