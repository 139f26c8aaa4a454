"""The table of kinds is whole, and a kind from outside runs with a row of its own."""

from dataclasses import asdict, fields
from types import FunctionType

import census
import pytest
from places import CLIENTS, STAGES, make_material, place

from fedmore.client.egress.answer_rules import AnswerRules
from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.run.stage_runner import StageRunner
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import ConfigError
from fedmore.strategies.events import StageSkipped
from fedmore.strategies.settings import descriptions
from fedmore.strategies.stages.kinds import KINDS, kinds_asking, load, message_types, row_of
from fedmore.strategies.tasks.schema import TaskSchema

BUILT_IN = sorted(KINDS)
LEAST = {**STAGES[0], "rounds": 1, "timeout_s": 600.0}


@pytest.fixture
def toy(plugged):
    """A package with the kind is installed."""
    plugged({"stage.census": "census:ROW"})


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_row_names_what_is_there(kind):
    row = KINDS[kind]
    assert load(row.runner, StageRunner)
    assert load(row.task, TaskSchema)
    assert load(row.rules, AnswerRules)
    assert load(row.work, FunctionType)
    assert row.message_type.partition(".")[0] == "train"


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_setting_says_what_it_means(kind):
    stage = KINDS[kind].stage
    assert descriptions(stage).keys() == {f.name for f in fields(stage)}


def test_a_kind_from_outside_is_known_by_its_name_and_has_tasks_of_its_own(toy):
    assert message_types() == ["train", "train.embed", "train.route", "train.census"]
    assert row_of("census") is census.ROW
    assert kinds_asking("train.census") == [census.ROW]
    assert census.ROW not in kinds_asking("train", "census")


CODE = """
from dataclasses import replace

import census
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.stages.kinds import KINDS

ROW = replace(census.ROW, {changes})
"""
WRONG = {
    "of another kind": ("stage=ExpertStage", "is of the stages 'experts'"),
    "tasks of another's": ("message_type='train'", "cannot ask for 'train' as the stages 'exp"),
    "tasks that name another": (
        "message_type='train.extra'",
        "asks for .train.extra., not for .train.census.",
    ),
}


@pytest.mark.parametrize(("changes", "why"), WRONG.values(), ids=WRONG)
def test_a_kind_cannot_take_anothers_place(plugged, changes, why):
    plugged({"stage.census": "extra:ROW"}, CODE.format(changes=changes))
    with pytest.raises(ConfigError, match=rf"plugin stage census .*: extra:ROW {why}"):
        row_of("census")


EXPERTS = """
from dataclasses import dataclass, replace
from typing import Literal

from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.stages.kinds import KINDS


class Specialists(ExpertStage):
    kind: Literal["specialists"] = "specialists"


ROW = replace(KINDS["experts"], stage=Specialists)
"""


def test_a_kind_may_have_the_tasks_of_fedmores_own(plugged):
    plugged({"stage.specialists": "extra:ROW"}, EXPERTS)
    kinds = [row.kind for row in kinds_asking("train", "specialists")]
    assert kinds == ["experts", "language", "specialists"]
    assert [row.kind for row in kinds_asking("train")] == ["experts", "language"]


@pytest.mark.parametrize("name", ["census:NOTHING", "no_such_module:X", "", "census", "census:ASK"])
def test_a_row_that_names_nothing_says_so(name):
    with pytest.raises(ConfigError, match="a kind of stage names"):
        load(name, StageRunner)


def test_a_kind_from_outside_runs_in_a_plan(toy, tmp_path):
    """Settings in federation.toml, the owner's consent, the task, the answer, the row."""
    stages = [{"kind": "census", "most": 7, "timeout_s": 600.0}, LEAST]
    material, router = make_material(tmp_path / "material"), {"kind": "uniform"}
    hub = tmp_path / "federation"
    made = place(material, hub, plugins=("stage.census",), stages=stages, router=router)
    made.run(clients=CLIENTS[:2])
    with Registry.open(made.directory) as registry:
        rows = [row for row in registry.rounds() if row.kind == "census"]
        assert [row.metrics["failures"] for row in rows] == [[]]
        counts = {name: said["documents"] for name, said in rows[0].metrics["clients"].items()}
        assert counts == {name: 7 for name, *_ in CLIENTS[:2]}
        assert registry.experts()


def test_owners_who_have_not_allowed_a_kind_do_no_task_of_it(toy, tmp_path):
    """The plan goes on without its stage, since the kind says that it can."""
    stages, seen = [{"kind": "census", "most": 7, "timeout_s": 600.0}, LEAST], []
    material, router = make_material(tmp_path / "material"), {"kind": "uniform"}
    made = place(material, tmp_path / "federation", stages=stages, router=router)
    made.run(observer=seen.append, clients=CLIENTS[:1])
    (ended,) = [event for event in seen if isinstance(event, StageSkipped)]
    assert "uses the plugin stage census (fedmore-extra 1.0), which the owner" in ended.reason
    with Registry.open(made.directory) as registry:
        assert {row.kind for row in registry.rounds()} == {"experts"}


def test_a_kind_that_is_not_there_is_refused():
    table = {"federation": {"name": "f"}, "base": {"model": "b"}, "stages": [{"kind": "census"}]}
    with pytest.raises(ConfigError, match=r"stages\[0\]: .*the kinds of stages are experts"):
        parse_config(table, "test")


def test_settings_of_a_kind_from_outside_are_read_strictly(toy):
    table = {"federation": {"name": "f"}, "base": {"model": "b"}}
    stages = [{"kind": "census", "most": 3}]
    assert asdict(parse_config({**table, "stages": stages}, "test").stages[0])["most"] == 3
    with pytest.raises(ConfigError, match=r"stages\[0\]\.most"):
        parse_config({**table, "stages": [{"kind": "census", "most": "3"}]}, "test")
