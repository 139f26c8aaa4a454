"""One seed of the study: the federation, then every router over its experts.

What is done is in ``<out>/seed-<n>/trials/``, one file a router: a study that was stopped goes on.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedmore.sims.engines.prepare import prepare
from fedmore.sims.engines.run import run as run_scenario
from fedmore.sims.routing import changes, estimator, trial
from fedmore.sims.routing.material import Material, load
from fedmore.sims.routing.trial import Scores, Trial
from fedmore.sims.routing.variants import Size, Variant
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
    withdrawn: dict[str, float]
    variance: dict[str, float]

    def mean(self, scores: Scores) -> float:
        """Over the experts' own texts."""
        return sum(scores[name] for name in self.experts) / len(self.experts)


@dataclass(frozen=True)
class Study:
    """What is run: the federation, and the routers over it."""

    scenario: Scenario
    variants: tuple[Variant, ...]
    size: Size
    unseen: str
    out: Path
    say: Callable[[str], None]


def federation(study: Study, seed: int) -> Path:
    """The folder of the seed's finished federation, run now if it is not there."""
    directory = study.out / f"seed-{seed}"
    if not (directory / "report.json").is_file():
        study.say(f"seed {seed}: training the experts")
        run_scenario(prepare(study.scenario, directory, seed=seed), "local", Console(quiet=True))
    return directory


def run_seed(study: Study, seed: int) -> SeedResult:
    """Every router of one seed."""
    directory = federation(study, seed)
    material = load(directory, study.size)
    kept = Kept(directory / "trials", study.say, f"seed {seed}")
    size = study.size
    base = kept.get("base", lambda: trial.score_all(material.base.model, material, size))
    oracle = kept.get("oracle", lambda: trial.oracle(material, size))
    trials = [
        Trial(**kept.get(_name(index, v), lambda v=v: asdict(_trial(study, material, v, seed))))
        for index, v in enumerate(study.variants)
    ]
    added = kept.get("added", lambda: changes.added(material, size, seed))
    withdrawn = kept.get("withdrawn", lambda: changes.withdrawn(material, size, seed))
    variance = kept.get("variance", lambda: estimator.variance(material, size, seed))
    return SeedResult(
        seed, Path(material.base.name).name, list(material.experts), study.unseen, asdict(size),
        base, oracle, trials, added, withdrawn, variance,
    )  # fmt: skip


def _trial(study: Study, material: Material, variant: Variant, seed: int) -> Trial:
    return trial.run(material, variant, study.size, seed)


def _name(index: int, variant: Variant) -> str:
    return f"{index:02d}-{variant.kind}-k{variant.k}-m{variant.samples}"


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
