"""The cost of codecs: runs a scenario per seed and codec, and compares own experts with the first.

Runs go to ``<out>/seed-<seed>-<codec>/``. A run that has its report is not repeated, so a stopped
study continues. The result is ``<out>/codecs.json``.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedmore.experts.errors import ConfigError
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.engines.run import run
from fedmore.sims.report.schema import Report, parse_report
from fedmore.sims.scenarios.scenario import Scenario
from fedmore.strategies.compression.policy import WEIGHT_TAGS, policy_of

RESULT = "codecs.json"


@dataclass(frozen=True)
class Outcome:
    """One run's bits per byte of every text under its own expert, and bytes sent by all clients.

    `bytes_up` and `counted` are as in `report.json`.
    """

    seed: int
    codec: str
    bits_per_byte: dict[str, float]
    bytes_up: int | None
    counted: str
    bytes_up_if_fp32: int


@dataclass(frozen=True)
class Cost:
    """Bits per byte in per cent above those of the first codec, paired by seed, in seed order."""

    codec: str
    text: str
    percent: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds, in per cent."""
        return sum(self.percent) / len(self.percent)


def study(
    scenario: Scenario,
    codecs: Sequence[str],
    seeds: Sequence[int],
    engine: str,
    out: Path,
    settings: Iterable[str] = (),
) -> list[Outcome]:
    """Run what is missing; raises `ConfigError` for an empty list or a repeated name."""
    for name, values in (("--codec", codecs), ("--seed", seeds)):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{name}: give at least one, each once, not {list(values)}")
    for codec in codecs:
        policy_of(codec)
    settings = tuple(settings)
    return [
        _outcome(_report(scenario, codec, seed, engine, out, settings), codec)
        for seed in seeds
        for codec in codecs
    ]


def _report(
    scenario: Scenario, codec: str, seed: int, engine: str, out: Path, settings: tuple[str, ...]
) -> Report:
    directory = out / f"seed-{seed}-{codec}"
    done = directory / "report.json"
    if not done.is_file():
        prepared = prepare(
            scenario, directory, seed=seed, settings=[*_codec_settings(scenario, codec), *settings]
        )
        run(prepared, engine, Console())
    return parse_report(done.read_text(encoding="utf-8"))


def _codec_settings(scenario: Scenario, codec: str) -> list[str]:
    """Settings for the codec of every training stage.

    A codec of weights sets their bits, and that owners go on with their own factors.
    """
    stages: Any = scenario.config["stages"]
    bits = {tag: bits for bits, tag in WEIGHT_TAGS.items()}.get(codec)
    wanted = [f"codec={codec}"] if bits is None else [f"weight_bits={bits}", "round_start=own"]
    trained = [i for i, stage in enumerate(stages) if stage["kind"] != "router"]
    return [f"stages.{i}.{setting}" for i in trained for setting in wanted]


def _outcome(report: Report, codec: str) -> Outcome:
    own = {
        text: scores.own_expert.mean
        for text, scores in report.bits_per_byte.items()
        if scores.own_expert is not None
    }
    traffic = report.traffic
    return Outcome(
        report.seed, codec, own, traffic.bytes_up, traffic.counted, traffic.bytes_up_if_fp32
    )


def costs(outcomes: Sequence[Outcome]) -> list[Cost]:
    """Compare every other codec with the first, by text."""
    first = outcomes[0].codec
    by_run = {(o.codec, o.seed): o.bits_per_byte for o in outcomes}
    seeds = list(dict.fromkeys(o.seed for o in outcomes))
    found = []
    for codec in dict.fromkeys(o.codec for o in outcomes if o.codec != first):
        for text in outcomes[0].bits_per_byte:
            pairs = [(by_run[codec, seed][text], by_run[first, seed][text]) for seed in seeds]
            found.append(Cost(codec, text, tuple(100 * (a / b - 1) for a, b in pairs)))
    return found


def write(scenario: Scenario, engine: str, outcomes: Sequence[Outcome], out: Path) -> Path:
    """Write `codecs.json`; returns its path."""
    table = {
        "scenario": scenario.name,
        "engine": engine,
        "baseline": outcomes[0].codec,
        "runs": [asdict(outcome) for outcome in outcomes],
        "costs": [{**asdict(cost), "mean": cost.mean} for cost in costs(outcomes)],
    }
    path = out / RESULT
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return path


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """The costs as a table for a terminal."""
    table = Table(title=f"Bits per byte above {outcomes[0].codec}, own expert", box=None)
    for heading in ("codec", "text", "each seed", "mean"):
        table.add_column(heading, justify="right" if heading == "mean" else "left")
    for cost in costs(outcomes):
        each = "  ".join(f"{value:+.2f} %" for value in cost.percent)
        table.add_row(cost.codec, cost.text, each, f"{cost.mean:+.2f} %")
    return table
