"""The table of kinds is whole, and a kind from outside runs with a row of its own."""

from dataclasses import asdict, fields, replace
from types import FunctionType

import census
import pytest
from places import CLIENTS, STAGES, make_material, place

from fedmore.client.egress.answer_rules import AnswerRules
from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.run.stage_runner import StageRunner
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import ConfigError
from fedmore.strategies.settings import descriptions
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.stages.kinds import KINDS, load, register
from fedmore.strategies.tasks.schema import TaskSchema

BUILT_IN = sorted(KINDS)


@pytest.fixture
def toy():
    """The kind is there for one test."""
    register(census.ROW)
    yield census.ROW
    del KINDS["census"]


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


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"stage": ExpertStage}, "the name is taken"),
        ({"message_type": "train"}, "answered as a task of the stages 'experts'"),
    ],
)
def test_a_kind_cannot_take_anothers_place(changed, why):
    with pytest.raises(ConfigError, match=why):
        register(replace(census.ROW, **changed))
    assert sorted(KINDS) == BUILT_IN


@pytest.mark.parametrize("name", ["census:NOTHING", "no_such_module:X", "", "census", "census:ASK"])
def test_a_row_that_names_nothing_says_so(name):
    with pytest.raises(ConfigError, match="a kind of stage names"):
        load(name, StageRunner)


def test_a_kind_from_outside_runs_in_a_plan(toy, tmp_path):
    """Settings in federation.toml, the owner's consent, the task, the answer, the row."""
    stages = [{"kind": "census", "most": 7, "timeout_s": 60.0}, STAGES[0], STAGES[2]]
    made = place(make_material(tmp_path / "material"), tmp_path / "federation", stages=stages)
    made.run(clients=CLIENTS[:3])
    with Registry.open(made.directory) as registry:
        rows = [row for row in registry.rounds() if row.kind == "census"]
        assert [row.metrics["failures"] for row in rows] == [[]]
        counts = {name: said["documents"] for name, said in rows[0].metrics["clients"].items()}
        assert counts == {name: 7 for name, *_ in CLIENTS[:3]}
        assert registry.experts()


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
