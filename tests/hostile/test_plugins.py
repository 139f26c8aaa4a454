"""A coordinator that names a plugin: on an owner's machine only what the owner allowed is imported.

The plugin is installed there, and the coordinator knows it. The owner has not said that this
federation may use it. Each of the ways to name one is a row.
"""

import json
from dataclasses import asdict, replace

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from owners import lenient, owner
from plugged import CODEC, was_imported
from victim import ROUTER, STAGE, TERMS, Victim, ask_for, sites_of, train_message

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.policy_guard import guard_of
from fedmore.client.owner.agreement import Agreement, check_bounds
from fedmore.client.owner.policy import OwnerPolicy, parse_policy
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import ConfigError, EgressError, WireError
from fedmore.strategies.router_stage.tasks import ROUTE, RouteTask, ranks_of, route_content
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.stages.unread import UnreadStage
from fedmore.strategies.tasks.base import work_of
from fedmore.strategies.tasks.train import STYPE, TRAIN
from fedmore.strategies.terms import changes, read_terms, rows

ENTRIES = {
    "codec.half": "extra:HALF", "router.first": "extra:First", "stage.count": "extra:ROW",
}  # fmt: skip
CODE = f"""{CODEC}

from fedmore.experts.routers.base import Router


class First(Router):
    learned = True

    def __init__(self, spec):
        super().__init__(spec)
        self.bias_LA = torch.nn.Parameter(torch.zeros(1, spec.arms))

    def forward(self, x_BTD, slot, memory):
        return torch.softmax(self.bias_LA[0], -1).expand(*x_BTD.shape[:2], -1)
"""
ROUTING = RouterStage(rounds=3, steps=8, batch_size=4, sequence_length=64, threads=1)
PLANS = {
    "updates": lambda: replace(TERMS, stages=(replace(STAGE, codec="half"),)),
    "updates of a role": lambda: replace(TERMS, stages=(replace(STAGE, codec="auto,norm=half"),)),
    "downloads": lambda: replace(TERMS, stages=(replace(STAGE, download_codec="half"),)),
    "a router": lambda: replace(
        TERMS, stages=(*TERMS.stages, ROUTING), router=replace(ROUTER, kind="first")
    ),
}


@pytest.fixture
def victim(tmp_path, base, plugged):
    """An owner of open bounds who has the plugins installed and has allowed none of them."""
    plugged(ENTRIES, CODE)
    return Victim(tmp_path, base, owner(tmp_path, "a"))


def allowing(victim, *plugins, codecs=("fp32", "half"), consent="bounds"):
    """The same owner, who has allowed some."""
    config = victim.context.node_config
    config["policy"] = lenient(plugins=plugins, codecs=codecs, consent=consent)
    victim.guard = guard_of(victim.context.node_id, config, Audit(victim.folder))
    return victim


def training(base, **changes):
    return TRAIN, train_message(ask_for(**changes), base)


def aggregate_as(base, stype):
    """An honest task, but for what its aggregate says that it is packed with."""
    sites = sites_of(base)
    change = {
        s.path: (torch.zeros(s.out_features, 1), torch.zeros(1, s.in_features)) for s in sites
    }
    content = train_message(ask_for(codec="fp32"), base, change)
    record = content.array_records["state"]
    data = b"\0" * (2 * sum(s.out_features + s.in_features for s in sites))
    record["aggregate"] = Array(dtype="uint8", shape=(len(data),), stype=stype, data=data)
    return TRAIN, content


def routing(base, kind):
    shapes = shapes_of(base.model)
    experts = {"legal": {s.path: (torch.zeros(s.out_features, 1), torch.zeros(1, s.in_features))
                         for s in sites_of(base)}}  # fmt: skip
    settings = work_of(ROUTING, 1, 0, TERMS.seed) | asdict(replace(ROUTER, kind=kind))
    task = RouteTask(
        **(settings | {"codec": "fp32"}), experts=("legal",), ranks=ranks_of(experts, shapes),
        width=64, layers=1,
    )  # fmt: skip
    numbers = b"\0" * 8
    arrays = {"router": Array("uint8", (8,), STYPE + "fp32", numbers)}
    return ROUTE, route_content(task, ArrayRecord(arrays))


def of_stage(base, message_type, **settings):
    return message_type, RecordDict({"task": ConfigRecord({"round": 1} | settings)})


TASKS = {
    "a stage of kind": lambda base: of_stage(base, "train.count", stage="count"),
    "a stage of kind, by its message alone": lambda base: of_stage(base, "train.count"),
    "a stage of kind, in an expert's task": lambda base: training(base, stage="count"),
    "an update as": lambda base: training(base, codec="half"),
    "an update of a role as": lambda base: training(base, codec="auto,factor_b=half"),
    "an aggregate as": lambda base: aggregate_as(base, STYPE + "half"),
    "an aggregate as, without the prefix": lambda base: aggregate_as(base, "half"),
    "a router of kind": lambda base: routing(base, "first"),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_makes_no_owner_import_what_was_not_allowed(victim, base, task):
    with pytest.raises(
        EgressError, match=r"(codec half|router first|stage count) \(fedmore-extra 1\.0\)"
    ):
        victim.do(*task(base))
    assert not was_imported()
    assert len(victim.refusals()) == 1


def test_the_same_tasks_are_the_owners_to_allow(victim, base):
    """Else the test above could not fail."""
    allowed = allowing(victim, "codec.half", "router.first")
    assert allowed.do(*training(base, codec="half")).content
    assert was_imported()


def test_allowing_a_plugin_does_not_let_updates_leave_in_its_codec(victim, base):
    victim = allowing(victim, "codec.half", codecs=("fp32",))
    with pytest.raises(EgressError, match="asked for an update as 'half'; the owner allows fp32"):
        victim.do(*training(base, codec="half"))


def test_an_update_in_a_plugins_codec_needs_as_many_tokens_as_one_of_full_numbers(plugged):
    plugged(ENTRIES, CODE)
    policy = OwnerPolicy(min_tokens=1)
    assert policy.tokens_needed(16, ["half"]) == policy.tokens_needed(16, ["fp32"])


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_plan_shows_the_plugin_and_is_out_of_bounds_without_the_owners_word(
    victim, tmp_path, plan
):
    read = read_terms(plan().dump())
    shown = dict(rows(read))["plugin"]
    assert "from the package fedmore-extra 1.0 on this machine" in shown
    key = shown.split(",")[0]
    with pytest.raises(EgressError, match="which the owner has not allowed"):
        check_bounds(read, OwnerPolicy())
    with pytest.raises(EgressError, match="which the owner has not allowed"):
        victim.guard.policy.check_plan(read)
    bounds = parse_policy(lenient())
    assert Agreement(tmp_path / "other").offer(read, bounds) != []
    assert Agreement(tmp_path / "other").agreed is None
    assert not was_imported()
    check_bounds(read, OwnerPolicy(plugins=(key,)))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_plan_with_what_is_not_installed_here_cannot_be_agreed_to(plugged, plan):
    plugged(ENTRIES, CODE)
    text = plan().dump().replace('"half"', '"os"').replace("=half", "=os").replace("first", "os")
    with pytest.raises(WireError, match=r"'os'.*(there are|known are) .*(half|first)"):
        read_terms(text.replace("os_layers", "first_layers"))


def test_a_router_that_only_the_coordinator_uses_need_not_be_here():
    terms = replace(TERMS, router=replace(ROUTER, kind="by_rank"))
    assert read_terms(terms.dump()) == terms
    assert "plugin" not in dict(rows(terms))


@pytest.mark.parametrize("key", ["codec.twice", "half", "extra:HALF", "codec."])
def test_an_owner_cannot_allow_what_is_not_installed(plugged, key):
    plugged(ENTRIES, CODE)
    there = r"plugins: .*; there are: codec\.half, router\.first, stage\.count"
    with pytest.raises(ConfigError, match=there):
        parse_policy(f'{{"plugins": ["{key}"]}}')


COUNT = {"kind": "count", "most": 3, "text": "\x1b[2J"}


def with_a_stage(**changes):
    """The text of a plan whose coordinator added a stage of the plugin's kind."""
    table = json.loads(TERMS.dump())
    return json.dumps(table | {"stages": [*table["stages"], COUNT | changes]}, sort_keys=True)


def test_a_plan_with_a_stage_of_a_plugin_is_shown_and_kept_and_not_read(victim, tmp_path):
    """An owner sees what it is before the owner has let anything of it run."""
    read = read_terms(with_a_stage())
    assert isinstance(read.stages[-1], UnreadStage)
    assert json.loads(read.dump()) == json.loads(with_a_stage())
    shown = dict(rows(read))
    assert '"most": 3' in shown["count"]
    assert "\x1b" not in shown["count"]
    assert shown["plugin"].startswith("stage.count, from the package fedmore-extra 1.0")
    assert changes(read, read_terms(with_a_stage(most=4, more=1))) == [
        "count: most is 4, agreed was 3", "count: more is 1, agreed was None"
    ]  # fmt: skip
    with pytest.raises(EgressError, match=r"stage count .* which the owner has not allowed"):
        check_bounds(read, OwnerPolicy())
    with pytest.raises(EgressError, match=r"stage count .* which the owner has not allowed"):
        victim.guard.policy.check_plan(read)
    assert Agreement(tmp_path / "other").offer(read, parse_policy(lenient())) != []
    assert Agreement(tmp_path / "other").agreed is None
    assert not was_imported()


def test_an_owner_who_has_agreed_to_such_a_plan_and_allows_it_no_more_imports_nothing(
    victim, base, tmp_path
):
    agreement = Agreement(tmp_path)
    agreement.accept(read_terms(with_a_stage()))
    allowing(victim, consent="plan", codecs=("sign1",))
    assert victim.do(*training(base)).content
    with pytest.raises(EgressError, match="stage count"):
        victim.do(*of_stage(base, "train.count", stage="count"))
    assert not was_imported()


def test_a_stage_that_the_owner_has_allowed_is_read(victim):
    with pytest.raises(ConfigError, match=r"plugin stage count .*AttributeError.*ROW"):
        read_terms(with_a_stage(), ("stage.count",))
    assert was_imported()
