"""kill -9 of the coordinator while one owner's answer is in and another is out.

Rounds that begin from the aggregate, with the server's momentum and owners of different rank, end
with the digests of a run that nobody disturbs: what is owed and what has momentum survive as well.
"""

from dataclasses import replace

import pytest
from durable import config_of
from sqlalchemy import select

from fedmore.coordinator.store.journal_models import TaskRecord
from fedmore.coordinator.store.registry import Registry

SENT, TAKEN = "commit push_messages > send", "commit take > _keep"
OWNERS, ROUNDS = 3, 3
MOMENTUM = {"round_start": "aggregate", "server_momentum": 0.5, "server_learning_rate": 0.7}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["fp32", "sign1"])
def federation(request, material, enrolled_with, tmp_path_factory):
    """Three owners of ranks 6 and 7 in one expert, enrolled, before its first round."""
    folder = tmp_path_factory.mktemp(request.param)
    config = config_of(material / "base", material / "texts")
    stage = replace(config.stages[0], codec=request.param, rounds=ROUNDS, **MOMENTUM)
    router = replace(config.router, kind="uniform", trained_at="coordinator")
    config = replace(config, stages=(stage, config.stages[1]), router=router)
    return enrolled_with(folder, config)


@pytest.fixture(scope="module")
def whole(federation, tmp_path_factory):
    place = federation.copy(tmp_path_factory.mktemp("whole") / "place")
    place.start_clients()
    assert place.coordinate() == 0, place.story()
    place.join_clients()
    rounds = place.outcome()["rounds"]
    assert [sorted(rounds[0, n]["clients"]) for n in (1, 2, 3)] == [["ada", "bob", "eve"]] * ROUNDS
    return place


def answers_before_training(place, number):
    """How many answers are in before round `number` trains; each round asks for sizes first."""
    writes = place.writes()
    sent = [at for at, write in enumerate(writes) if write == SENT]
    return writes[: sent[2 * number - 1]].count(TAKEN)


def tasks_of(place):
    """How many tasks are answered, and how many are open."""
    with Registry.open(place.directory) as registry, registry.database.session() as session:
        replies = session.scalars(select(TaskRecord.reply)).all()
    answered = sum(reply is not None for reply in replies)
    return answered, len(replies) - answered


@pytest.mark.timeout(600)
@pytest.mark.parametrize("numbers", [(1,), (2,), (2, 1)], ids=["one in", "two in", "twice"])
def test_killed_in_mid_round(federation, whole, tmp_path, numbers):
    """In the second round, which begins from what the first has left; again as it goes on."""
    place = federation.copy(tmp_path / "place")
    place.start_clients()
    first, *again = numbers
    number = answers_before_training(whole, 2) + first
    assert place.coordinate((TAKEN, number, "after")) == -9, place.story()
    answered, out = tasks_of(place)
    assert (answered >= first, out) == (True, OWNERS - first), place.writes()
    for number in again:
        assert place.coordinate((TAKEN, number, "before")) == -9, place.story()
    assert place.coordinate() == 0, place.story()
    place.join_clients()
    assert place.outcome() == whole.outcome()
