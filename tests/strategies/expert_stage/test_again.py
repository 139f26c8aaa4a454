"""A round that is done again after a crash asks the same of everybody who is still here.

A client does one task a round and refuses another: so what is asked of it must not depend on who
else is here.
"""

import pytest
from flwr.app import ArrayRecord
from thinning import rarer_slow

from fedmore.strategies.expert_stage.progress import Progress
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import TRAIN

FEW = {"steps": 2, "learning_rate": 0.1}
ABC = {"a": 2, "b": 4, "c": 3}


@pytest.fixture
def tasks(shapes, new_log, fake_grid):
    """Call it with a stage, owners and what the rounds before have left: the tasks as bytes."""

    def run(stage, owners, states, done, rounds):
        strategy = ExpertStrategy(stage, shapes, 7, new_log(), Progress(done, states))
        grid = fake_grid(owners)
        strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=rounds, timeout=0.2)
        sent = {
            grid.clients[m.metadata.dst_node_id].name: repr(sorted(_said(m.content)))
            for m in grid.sent
            if m.metadata.message_type == TRAIN
        }
        return sent, restore(dump(strategy.states))

    return run


def _said(content):
    for name, record in content.items():
        for key, value in record.items():
            yield name, key, value.data if hasattr(value, "data") else value


@pytest.mark.parametrize("download", rarer_slow(["bf16", "sign1"], ["sign1"]))
@pytest.mark.parametrize("start", ["own", "aggregate"])
@pytest.mark.parametrize(
    ("first", "before", "again"),
    [
        ("a", "ab", "a"),  # somebody has left
        ("a", "a", "ab"),  # somebody has come
        ("ab", "abc", "b"),
        ("ab", "b", "abc"),
    ],
)
def test_who_else_is_here_changes_no_task(
    tasks, fake_client, first, before, again, start, download
):
    stage = ExpertStage(**FEW, round_start=start, download_codec=download)

    def people(names):
        return [fake_client(name, rank=ABC[name], size=100) for name in names]

    def after_round_1(names):
        known = people(first)
        _, states = tasks(stage, known, {}, 0, 1)
        others = [one for one in people(names) if one.name not in first]
        return [one for one in known if one.name in names] + others, states

    asked, _ = tasks(stage, *after_round_1(before), 1, 1)
    once_more, _ = tasks(stage, *after_round_1(again), 1, 1)
    both = asked.keys() & once_more.keys()
    assert both
    for name in both:
        assert asked[name] == once_more[name], name
