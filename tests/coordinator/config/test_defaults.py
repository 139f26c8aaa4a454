"""A file says the same in every later version, also where that has other defaults.

`python tests/coordinator/config/test_defaults.py` writes `defaults.json`, after `EDITION` was
raised and the former defaults were put into `CHANGED`.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from fedmore.coordinator.config import defaults
from fedmore.coordinator.config.schema import SECTIONS, parse_config
from fedmore.coordinator.config.template import render
from fedmore.coordinator.folder.create import new_config
from fedmore.experts.errors import ConfigError
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.stages.kinds import KINDS

STORED = Path(__file__).parent / "defaults.json"
PLAN = {"federation": {"name": "x"}, "base": {"model": "m"}}


def all_defaults() -> dict[str, Any]:
    """Every default by its path, as `CHANGED` names it."""
    owners = SECTIONS | {f"stages.{kind}": row.stage for kind, row in KINDS.items()}
    found = {
        f"{name}.{field.name}": field.default
        for name, owner in owners.items()
        for field in fields(owner)
        if field.default is not MISSING
    }
    return dict(json.loads(json.dumps(found)))


def test_no_default_changes_without_a_new_edition() -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert stored == {"edition": defaults.EDITION, "defaults": all_defaults()}, (
        "a default changed: raise EDITION in coordinator/config/defaults.py, put the former "
        f"default into CHANGED, and run `python {Path(__file__).name}`"
    )


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version two editions on, in which 99 steps and seed 5 were the defaults for a while."""
    changed: Mapping[int, Mapping[str, Any]] = {
        2: {
            "stages.experts.steps": 99,
            "federation.seed": 5,
            "stages.experts.late_updates": "drop",
        },
        3: {"federation.seed": 6, "server.port": 1},
    }
    monkeypatch.setattr(defaults, "CHANGED", changed)
    monkeypatch.setattr(defaults, "EDITION", 3)


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    ("edition", "steps", "seed", "port"),
    [(None, 99, 5, 1), (1, 99, 5, 1), (2, 10, 6, 1), (3, 10, 0, 8470)],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_file_has_the_defaults_of_its_edition(
    edition: int | None, steps: int, seed: int, port: int, listed: bool
) -> None:
    table: dict[str, Any] = dict(PLAN) if edition is None else PLAN | {"defaults": edition}
    if listed:
        table["stages"] = [{"kind": "experts"}, {"kind": "router"}]
    config = parse_config(table, "old")
    stage = config.stages[0]
    assert isinstance(stage, ExpertStage)
    assert (stage.steps, config.federation.seed, config.server.port) == (steps, seed, port)


@pytest.mark.usefixtures("later")
def test_what_a_file_says_counts_whatever_its_edition() -> None:
    stages = [{"kind": "experts", "steps": 3, "late": "keep"}]
    table = {"federation": {"name": "x", "seed": 1}, "base": {"model": "m"}, "stages": stages}
    config = parse_config(table, "old")
    stage = config.stages[0]
    assert isinstance(stage, ExpertStage)
    assert (config.federation.seed, stage.steps, stage.late_updates) == (1, 3, "keep")


@pytest.mark.usefixtures("later")
def test_what_is_written_now_has_todays_defaults() -> None:
    config = new_config(name="town", base="base", domains=("legal",))
    table = tomllib.loads(render(config))
    assert (config.federation.seed, table["defaults"]) == (0, 3)
    assert parse_config(table, "again") == config


@pytest.mark.parametrize("edition", [0, -1, 2, 1.0, True, "1", None, [1]])
def test_an_edition_that_this_version_does_not_know_is_refused(edition: object) -> None:
    with pytest.raises(ConfigError, match=r"here: defaults: .* is not one of the editions 1 to 1"):
        parse_config(PLAN | {"defaults": edition}, "here")


if __name__ == "__main__":
    table = {"edition": defaults.EDITION, "defaults": all_defaults()}
    STORED.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
