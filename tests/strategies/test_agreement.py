"""Terms and tasks: what the coordinator's own strategies ask is agreed to, anything else is not."""

import json
from dataclasses import asdict, fields, replace

import pytest

from fedmore.coordinator.config.terms import terms_of
from fedmore.coordinator.folder.create import new_config
from fedmore.experts.errors import WireError
from fedmore.strategies.embedding_stage.agreement import embed_differences
from fedmore.strategies.embedding_stage.strategy import EmbedTask
from fedmore.strategies.expert_stage.agreement import VARYING, train_differences
from fedmore.strategies.expert_stage.pending import task_of
from fedmore.strategies.members import Member
from fedmore.strategies.router_stage.agreement import VARYING_ROUTE, route_differences
from fedmore.strategies.router_stage.tasks import RouteTask
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage, FactorStage, LanguageStage
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.base import work_of
from fedmore.strategies.tasks.train import TrainTask
from fedmore.strategies.terms import (
    COORDINATORS_OWN,
    Terms,
    changes,
    owners_part,
    read_terms,
    rows,
)

MEMBER = Member("a", "expert", "legal", 4, 100, [], [])
STAGES = (
    ExpertStage(rounds=3, threads=2),
    LanguageStage(),
    EmbeddingStage(),
    RouterStage(rounds=2),
)


@pytest.fixture
def terms() -> Terms:
    config = new_config(name="f", base="b", domains=("legal",), languages=("gl",))
    return terms_of(replace(config, stages=STAGES))


def train_task(terms: Terms, **changed) -> TrainTask:
    return replace(task_of(STAGES[0], MEMBER, 2, 1, terms.seed), **changed)


def route_task(terms: Terms, **changed) -> RouteTask:
    router = asdict(terms.router)
    work = work_of(STAGES[3], 1, 0, terms.seed)
    task = RouteTask(**work, **router, experts=("legal",), ranks=(4,), width=8, layers=1)
    return replace(task, **changed)


def test_what_the_plan_asks_is_agreed_to(terms):
    assert train_differences(terms, train_task(terms)) == []
    assert route_differences(terms, route_task(terms)) == []
    task = EmbedTask(terms.embed_documents, terms.embed_tokens, terms.seed, "router", 1)
    assert embed_differences(terms, task) == []


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        words = {"sign1": "fp32", "constant": "rslora", "once": "every_round", "own": "aggregate"}
        return words.get(value, value + "x")
    return value + 1


OWNERS = {"expert", "kind", "rank", "ranks", "round"}
"""What the owner chose, which the contract compares with the node; and the round, see below."""


@pytest.mark.parametrize("name", sorted({f.name for f in fields(TrainTask)} - VARYING - OWNERS))
def test_every_setting_of_a_training_task_counts(terms, name):
    task = train_task(terms)
    changed = {name: other(getattr(task, name))}
    if name == "weight_bits":
        changed["codec"] = "bits1"
    found = train_differences(terms, replace(task, **changed))
    assert any(line.startswith(name) or "stage" in line for line in found)


@pytest.mark.parametrize(
    "name", sorted({f.name for f in fields(RouteTask)} - VARYING_ROUTE - {"round"})
)
def test_every_setting_of_a_routing_task_counts(terms, name):
    values = {
        "kind": "xlora",
        "init": "domain",
        "scaling": "rank_stabilised",
        "granularity": "token",
    }
    task = route_task(terms)
    changed = {name: values.get(name) or other(getattr(task, name))}
    assert route_differences(terms, replace(task, **changed))


@pytest.mark.parametrize(
    "changed",
    [{"documents": 16}, {"tokens": 1}, {"seed": 9}, {"round": 2}, {"stage": "experts"}],
    ids=str,
)
def test_every_setting_of_an_embedding_task_counts(terms, changed):
    task = EmbedTask(terms.embed_documents, terms.embed_tokens, terms.seed, "router", 1)
    assert embed_differences(terms, replace(task, **changed))


@pytest.mark.parametrize("number", [0, -1, 4, 10**6])
def test_rounds_end(terms, number):
    (line,) = train_differences(terms, train_task(terms, round=number))
    assert line == f"round is {number}, agreed were rounds 1 to 3"


def test_a_stage_that_was_not_agreed_to(terms):
    (line,) = train_differences(terms, train_task(terms, stage="experts2"))
    assert line == "the agreed plan has no stage 'experts2'"


def test_a_router_over_fewer_experts_chooses_fewer(terms):
    assert route_differences(terms, route_task(terms, top_k=1)) == []
    assert route_differences(terms, route_task(terms, top_k=3))


def test_terms_are_the_same_after_the_wire(terms):
    assert read_terms(terms.dump()) == terms
    assert changes(terms, read_terms(terms.dump())) == []


def test_a_plan_of_two_stages_of_one_kind_is_none(terms):
    """An owner would be shown both, and only the first would be compared."""
    with pytest.raises(WireError, match="two stages of one kind"):
        read_terms(replace(terms, stages=(*terms.stages, replace(STAGES[0], steps=1))).dump())


@pytest.mark.parametrize(("kept", "brought"), [(5, 5), (5, 6)])
def test_nothing_of_more_rank_than_the_plan_keeps_is_taken(terms, kept, brought):
    stages = tuple(
        replace(s, max_rank=kept) if isinstance(s, FactorStage) else s for s in terms.stages
    )
    narrow, found = replace(terms, stages=stages), []
    found += train_differences(narrow, train_task(narrow, aggregate_ranks=(1, brought)))
    found += route_differences(narrow, route_task(narrow, ranks=(-1, brought)))
    wanted = [f"it brings {what} of rank 6, agreed was 5" for what in ("an aggregate", "an expert")]
    assert found == (wanted if brought > kept else [])


@pytest.mark.parametrize("name", COORDINATORS_OWN)
def test_the_coordinators_own_settings_need_no_consent(name):
    values = {
        "late_updates": "drop",
        "aggregation": "krum",
        "timeout_s": 9e9,
        "max_client_weight": 0.5,
    }
    values |= {"aggregation": "median", "server_momentum": 0.5}
    values |= {"aggregate_energy": 0.5, "broadcast_rank": 64}
    stage = ExpertStage(**({"aggregation": "clipped"} if name == "clip_norm" else {}))
    changed = replace(stage, **{name: values.get(name) or getattr(stage, name) + 0.25})
    assert owners_part(changed) == owners_part(stage)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"learning_rate": 1.0}, "experts: learning_rate is 1.0, agreed was 0.001"),
        ({"codec": "fp32"}, "experts: codec is fp32, agreed was sign1"),
        ({"rounds": 99}, "experts: rounds is 99, agreed was 3"),
    ],
)
def test_what_changed_is_said(terms, changed, line):
    stages = (replace(terms.stages[0], **changed), *terms.stages[1:])
    assert changes(terms, replace(terms, stages=stages)) == [line]


def test_new_and_gone_stages_are_said(terms):
    less = replace(terms, stages=terms.stages[:2])
    assert changes(terms, less) == ["the stage 'router' is gone", "the stage 'routing' is gone"]
    assert changes(less, terms) == ["the stage 'router' is new", "the stage 'routing' is new"]


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "{}", "[" * 5000, '{"seed": 1}'])
def test_anything_else_is_no_plan(text):
    with pytest.raises(WireError, match=r"plan"):
        read_terms(text)


def test_a_setting_of_a_later_version_is_not_agreed_to(terms):
    table = json.loads(terms.dump())
    table["stages"][0]["reads_text"] = True
    with pytest.raises(WireError, match="not one of this version"):
        read_terms(json.dumps(table))


def test_the_owner_is_shown_a_line_for_each_stage(terms):
    shown = dict(rows(terms))
    assert list(shown) == ["experts", "language", "router", "routing"]
    assert (
        "3 rounds of 10 steps x 4 windows of 128 tokens (5,120 tokens a round)" in shown["experts"]
    )
    assert "up to 1000 documents, 128 tokens of each" in shown["router"]
