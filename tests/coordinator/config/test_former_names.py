"""Files and messages with the names that settings had in earlier versions are read as they were.

`former/` was written by the last version that had those names: a whole `federation.toml`, the plan
that its owners agreed to, a routing task as it travels, a router, and a routing stage's state.
"""

import json
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedmore.coordinator.config.router_section import RouterSection
from fedmore.coordinator.config.schema import FederationConfig, parse_config
from fedmore.coordinator.config.sections import ServerSection
from fedmore.coordinator.config.template import render
from fedmore.coordinator.config.terms import terms_of
from fedmore.experts.errors import ConfigError, WireError
from fedmore.experts.former_names import ROUTER, SERVER, STAGE, former, today
from fedmore.experts.router_training.gradient import Training
from fedmore.experts.routers.serialization import dump_router, load_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.protos.wire.records import dumps, loads
from fedmore.strategies.router_stage import state as router_state
from fedmore.strategies.router_stage.tasks import RouteTask, read_route_task, route_content
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.terms import RouterTerms, changes, read_terms

FORMER = Path(__file__).parent / "former"
SECTIONS = {
    "stage": (STAGE, [FactorStage]),
    "router": (ROUTER, [RouterSection]),
    "server": (SERVER, [ServerSection]),
}
SETTINGS = [
    (section, old, new.name)
    for section, (renamed, _) in SECTIONS.items()
    for old, new in renamed.items()
]
VALUES = {"late": "refuse", "level": "token", "start": "zero", "prefix": 3, "samples": 3}
"""A value of each setting that is no number with a fraction."""


@pytest.fixture(scope="module")
def read() -> FederationConfig:
    table = tomllib.loads((FORMER / "federation.toml").read_text(encoding="utf-8"))
    return parse_config(table, "federation.toml")


def test_a_file_of_an_earlier_version_says_what_it_said(read: FederationConfig) -> None:
    experts, language, embeddings, _ = read.stages
    assert isinstance(experts, FactorStage)
    assert isinstance(language, FactorStage)
    assert (experts.quorum_fraction, embeddings.quorum_fraction) == (0.5, 0.75)
    assert (experts.late_updates, language.late_updates) == ("drop", "keep")
    assert (experts.staleness_decay, experts.malicious_fraction) == (0.25, 0.3)
    assert language.max_client_weight == 0.75
    assert (read.server.heartbeat_timeout_s, read.server.rejoin_timeout_s) == (41.0, 61.0)
    router = read.router
    assert (router.granularity, router.prefix_tokens, router.init) == ("request", 16, "domain")
    assert (router.num_selections, router.entropy_weight) == (6, 0.125)
    assert (router.balance_weight, router.z_loss_weight) == (0.5, 0.25)


def test_it_is_written_again_with_todays_names(read: FederationConfig) -> None:
    table = tomllib.loads(render(read))
    assert parse_config(table, "again") == read
    names = {key for part in (table["server"], table["router"], *table["stages"]) for key in part}
    assert not names & {old for _, old, _ in SETTINGS}


def test_owners_who_agreed_to_its_plan_are_asked_nothing_new(read: FederationConfig) -> None:
    agreed = (FORMER / "plan.json").read_text(encoding="utf-8")
    assert read_terms(agreed) == terms_of(read)
    assert changes(read_terms(agreed), terms_of(read)) == []


def test_a_client_of_an_earlier_version_is_told_the_plan_in_its_words(
    read: FederationConfig,
) -> None:
    assert terms_of(read).dump() + "\n" == (FORMER / "plan.json").read_text(encoding="utf-8")


def test_a_task_travels_between_versions_in_both_directions() -> None:
    sent = (FORMER / "task.bin").read_bytes()
    task = read_route_task(loads(sent))
    assert (task.granularity, task.prefix_tokens, task.init) == ("request", 16, "domain")
    assert (task.num_selections, task.entropy_weight, task.z_loss_weight) == (6, 0.125, 0.25)
    assert dumps(route_content(task, ArrayRecord())) == sent


def test_a_routers_file_and_a_stages_state_are_read_and_written_alike() -> None:
    stored = (FORMER / "router.safetensors").read_bytes()
    router, experts = load_router(stored)
    assert (router.spec.granularity, router.spec.init, experts) == ("request", "domain", ["a", "b"])
    assert dump_router(router, experts) == stored
    stored = (FORMER / "state.safetensors").read_bytes()
    state = router_state.restore(stored)
    assert torch.equal(state.initial.state_dict()["rows_LAD"], router.state_dict()["rows_LAD"])
    assert router_state.dump(state) == stored


@pytest.mark.parametrize(("section", "old", "new"), SETTINGS)
def test_both_names_at_once_are_an_error_that_names_both(section: str, old: str, new: str) -> None:
    both = {old: VALUES.get(old, 0.25), new: VALUES.get(old, 0.25)}
    table = {"federation": {"name": "x"}, "base": {"model": "y"}}
    part = {"stages": [{"kind": "experts", **both}]} if section == "stage" else {section: both}
    with pytest.raises(ConfigError, match=rf"\b{old} and {new} are one setting"):
        parse_config(table | part, "here")


@pytest.mark.parametrize(("section", "old", "new"), SETTINGS)
def test_either_name_is_read(section: str, old: str, new: str) -> None:
    value = VALUES.get(old, 40.0 if section == "server" else 0.25)
    renamed = SECTIONS[section][0][old]
    table = {"federation": {"name": "x"}, "base": {"model": "y"}}
    found = []
    for key, said in ((old, value), (new, renamed.values.get(str(value), value))):
        chosen = {key: said}
        part = (
            {"stages": [{"kind": "experts", **chosen}]} if section == "stage" else {section: chosen}
        )
        config = parse_config(table | part, "here")
        found.append(config.stages[0] if section == "stage" else getattr(config, section))
    assert found[0] == found[1]
    assert getattr(found[0], new) == renamed.values.get(str(value), value)


@pytest.mark.parametrize("where", ["stages", "router"])
def test_a_plan_or_task_with_both_names_is_not_one_of_this_version(where: str) -> None:
    plan = json.loads((FORMER / "plan.json").read_text(encoding="utf-8"))
    if where == "stages":
        plan["stages"][0]["staleness_decay"] = 0.5
    else:
        plan["router"]["granularity"] = "token"
    with pytest.raises(WireError, match="are one setting"):
        read_terms(json.dumps(plan))
    content = loads((FORMER / "task.bin").read_bytes())
    config = {**content.config_records["task"], "granularity": "token"}
    with pytest.raises(WireError, match="level and granularity are one setting"):
        read_route_task(RecordDict({"task": ConfigRecord(config)}))


def test_no_class_has_a_setting_with_a_former_name() -> None:
    """The names of the table are read at the boundary alone."""
    owners = {
        "stage": [FactorStage],
        "router": [RouterSection, RouterTerms, RouteTask, RouterSpec, Training],
        "server": [ServerSection],
    }
    for section, (renamed, _) in SECTIONS.items():
        names = {field.name for owner in owners[section] for field in fields(owner)}
        assert not names & renamed.keys()
        assert {new.name for new in renamed.values()} <= names


@pytest.mark.parametrize("renamed", [STAGE, ROUTER, SERVER], ids=["stage", "router", "server"])
def test_former_is_the_inverse_of_today(renamed: dict[str, object]) -> None:
    old = {name: VALUES.get(name, 0.25) for name in renamed} | {"steps": 3}
    assert former(today(old, renamed), renamed) == old
    assert today(today(old, renamed), renamed) == today(old, renamed)


def test_a_kind_from_outside_keeps_its_own_setting_of_a_former_name() -> None:
    assert today({"late": 3}, STAGE, {"late"}) == {"late": 3}
