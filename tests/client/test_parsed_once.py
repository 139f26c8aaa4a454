"""A message is read once at the app's door and once by the guard, whatever kind of task it is."""

from collections import Counter
from dataclasses import asdict, replace

import places
import pytest
import torch
from owners import owner
from places import CLIENTS, SHARED, make_material, place
from victim import ROUTER, TERMS, Victim, ask_for, embed, sites_of, train_message

from fedmore.experts.base.model import shapes_of
from fedmore.experts.routers.serialization import make_router
from fedmore.strategies.router_stage.tasks import (
    ROUTE,
    RouteTask,
    ranks_of,
    route_arrays,
    route_content,
)
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks import base as tasks
from fedmore.strategies.tasks.base import work_of
from fedmore.strategies.tasks.train import EMBED, TRAIN

IN_THE_APP, WITH_A_GUARD = 1, 2
ROUTING = RouterStage(rounds=1, steps=8, batch_size=4, sequence_length=64, threads=1)


@pytest.fixture
def parses(monkeypatch):
    """How often the settings of a task of each stage were read."""
    found, parse = Counter(), tasks.parse

    def counted(adapter, table):
        found[table["stage"]] += 1
        return parse(adapter, table)

    monkeypatch.setattr(tasks, "parse", counted)
    return found


def test_in_a_whole_plan_every_task_is_parsed_once(parses, tmp_path, monkeypatch):
    asked, handle = Counter(), places.handle

    def counted(message, context):
        asked[message.content.config_records.get("task", {}).get("stage")] += 1
        return handle(message, context)

    monkeypatch.setattr(places, "handle", counted)
    folder, texts = make_material(tmp_path / "material")
    plain = {key: value for key, value in SHARED.items() if not key.endswith("layers")}
    stages = [
        {"kind": "experts", "rounds": 2, **SHARED},
        {"kind": "language", "rounds": 1, **SHARED},
        {"kind": "router", "rounds": 1, **SHARED},
        {"kind": "routing", "rounds": 1, **plain},
    ]
    router = {"kind": "softmax", "trained_at": "clients", "top_k": 2}
    router["public_text"] = str(texts["plain"].train)
    place((folder, texts), tmp_path / "hub", stages=stages, router=router).run()
    del asked[None]  # who are you
    assert asked == {"experts": 2 * 3, "language": 1, "router": 4, "routing": len(CLIENTS)}
    assert parses == {stage: IN_THE_APP * count for stage, count in asked.items()}


def routing(base):
    """A routing task over one expert that changes nothing."""
    shapes = shapes_of(base.model)
    experts = {"legal": {s.path: (torch.zeros(s.out_features, 1), torch.zeros(1, s.in_features))
                         for s in sites_of(base)}}  # fmt: skip
    settings = work_of(ROUTING, 1, 0, TERMS.seed) | asdict(replace(ROUTER, kind="softmax"))
    task = RouteTask(
        **settings, experts=("legal",), ranks=ranks_of(experts, shapes), width=64, layers=1
    )
    return route_content(task, route_arrays(make_router(task.spec()), experts, shapes, "fp32"))


def training(base):
    """A training task that brings an aggregate, from which its expert begins."""
    change = {s.path: (torch.zeros(s.out_features, 1), torch.zeros(1, s.in_features))
              for s in sites_of(base)}  # fmt: skip
    return train_message(ask_for(), base, change)


TASKS = {
    "experts": (TRAIN, training), "router": (EMBED, lambda _: embed()), "routing": (ROUTE, routing),
}  # fmt: skip


@pytest.mark.parametrize("stage", TASKS)
def test_the_guard_reads_a_task_for_itself_and_once(parses, tmp_path, base, stage):
    victim, (kind, made) = Victim(tmp_path, base, owner(tmp_path, "a")), TASKS[stage]
    content = made(base)
    assert victim.do(kind, content).content
    assert parses == {stage: WITH_A_GUARD}
