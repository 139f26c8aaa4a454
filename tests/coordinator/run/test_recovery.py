"""How a coordinator that is started again finds its clients and its rounds."""

import threading

import pytest

from fedmore.coordinator.run.recovery import (
    count_tokens,
    expected_clients,
    recover,
    wait_for_clients,
)
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.tasks.journal import Journal
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import RoundError


@pytest.fixture
def registry(tmp_path):
    with Registry.open(tmp_path) as opened:
        for name in ("ada", "bob"):
            opened.enrol(opened.invite(name), name, "expert", "legal", 4)
        yield opened


@pytest.fixture
def queue(registry):
    return TaskQueue()


def node(registry, name):
    return next(m.node_id for m in registry.members() if m.name == name)


def test_a_plan_that_had_begun_goes_on_with_those_who_came(registry, queue):
    queue.join(node(registry, "ada"))
    wait_for_clients(queue, registry, 2, patience_s=20, rejoin_timeout_s=0.1)
    assert len(queue.nodes()) == 1


def test_it_does_not_wait_longer_than_it_must(registry, queue):
    for name in ("ada", "bob"):
        queue.join(node(registry, name))
    wait_for_clients(queue, registry, 2, patience_s=None, rejoin_timeout_s=1000)


def test_who_has_withdrawn_is_not_waited_for(registry, queue):
    registry.withdraw("bob")
    queue.join(node(registry, "ada"))
    wait_for_clients(queue, registry, 2, patience_s=None, rejoin_timeout_s=1000)


@pytest.mark.parametrize(
    ("begun", "barred", "expected"),
    [(False, [], 2), (True, [], 2), (True, ["bob"], 1), (True, ["ada", "bob"], 1),
     (False, ["bob"], 2)],
)  # fmt: skip
def test_how_many_are_expected(registry, begun, barred, expected):
    """A plan that has not begun waits for somebody in the place of who went."""
    for bar, name in zip((registry.withdraw, registry.revoke), barred, strict=False):
        bar(name)
    assert expected_clients(registry, 2, begun) == expected


def test_somebody_must_come(registry, queue):
    timer = threading.Timer(0.3, queue.join, [node(registry, "bob")])
    timer.start()
    wait_for_clients(queue, registry, 2, patience_s=None, rejoin_timeout_s=0.05)
    assert queue.nodes() == [node(registry, "bob")]
    timer.join()


@pytest.mark.parametrize("rejoin_timeout_s", [None, 0.05])
def test_who_is_missing_is_named_when_patience_ends(registry, queue, rejoin_timeout_s):
    if rejoin_timeout_s is None:
        queue.join(node(registry, "ada"))
    missing = "bob" if rejoin_timeout_s is None else "ada, bob"
    with pytest.raises(RoundError, match=rf"of 2 clients came within 0\.1 s; missing: {missing}$"):
        wait_for_clients(queue, registry, 2, patience_s=0.1, rejoin_timeout_s=rejoin_timeout_s)


def test_members_counts_follow_from_the_rounds(registry, tmp_path):
    for number in (1, 2):
        clients = {"ada": {"tokens": 100}, "bob": {"tokens": 7}}
        metrics = {"clients": clients}
        registry.add_round(stage=0, kind="experts", round=number, metrics=metrics)
    registry.add_tokens("ada", 100)
    for _ in range(2):
        count_tokens(registry)
        assert {m.name: m.train_tokens for m in registry.members()} == {"ada": 200, "bob": 14}
    journal = Journal(registry.database, Store(tmp_path / "blobs"), registry.digests)
    assert recover(journal, registry)


def test_before_the_first_round_nothing_has_begun(registry, tmp_path):
    journal = Journal(registry.database, Store(tmp_path / "blobs"), registry.digests)
    assert not recover(journal, registry)
