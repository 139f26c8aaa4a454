"""Quorum, deadline and late updates, with a grid and a clock that the tests hold."""

import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from stages import OWN_FACTORS

from fedmore.experts.errors import RoundError, StoreError
from fedmore.protos.wire.flower_compat import identify
from fedmore.protos.wire.payloads import StoredArray
from fedmore.strategies.expert_stage.progress import Progress
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.rounds.quorum_grid import RoundGrid, quorum
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import TRAIN, read_task

SHARED = {"steps": 2, "learning_rate": 0.1} | OWN_FACTORS
STAGE = ExpertStage(
    5, **SHARED, deadline_s=10.0, timeout_s=60.0, quorum_fraction=0.5, staleness_decay=0.25
)


class Clock:
    """Time passes in `sleep` alone; what is due by then happens."""

    def __init__(self):
        self.now = 0.0
        self.due = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += 1.0
        for item in [i for i in self.due if i[0] <= self.now]:
            self.due.remove(item)
            item[1]()


@pytest.fixture
def slow_grid(fake_grid):
    """A grid on which the training answers of `slow` clients come so many seconds later."""

    class SlowGrid(fake_grid):
        def __init__(self, clients, slow):
            super().__init__(clients)
            self.clock, self.slow, self.given_up = Clock(), slow, []

        def push_messages(self, messages):
            ids = super().push_messages(messages)
            for message, key in zip(messages, ids, strict=True):
                name = self.clients[message.metadata.dst_node_id].member.name
                delay = self.slow.get(name, 0.0)
                if delay and key in self.replies:
                    reply = self.replies.pop(key)

                    def arrive(key=key, reply=reply):
                        self.replies[key] = reply

                    self.clock.due.append((self.clock.now + delay, arrive))
            return ids

        def withdraw(self, message_ids, reason):
            self.given_up += message_ids

    return SlowGrid


@pytest.fixture
def leaving_grid(slow_grid):
    """A slow grid whose slow clients are away until they answer."""

    class LeavingGrid(slow_grid):
        def keep(self, message_ids):
            self.kept = set(message_ids)

        def away(self, message_ids):
            away = {
                i: "b left: asleep" for i in message_ids if i in self.kept - self.replies.keys()
            }
            self.clock.sleep(1)
            return away

    return LeavingGrid


@pytest.fixture
def run(shapes, new_log):
    def go(grid, rounds, stage=STAGE, progress=None):
        log = new_log()
        strategy = ExpertStrategy(stage, shapes, 7, log, progress)
        patient = strategy.patient(grid)
        patient._clock, patient._sleep = grid.clock, grid.clock.sleep
        strategy.start(patient, ArrayRecord(), num_rounds=rounds, timeout=stage.timeout_s)
        return strategy, log

    return go


@pytest.fixture
def owners(fake_client):
    def make(*names):
        return [fake_client(name, rank=2, size=100) for name in names]

    return make


def product(b, a):
    return b.double() @ a.double()


def weight(strategy, name):
    return strategy.states["legal"].components[name].weight


def test_a_round_goes_on_at_its_deadline_and_the_late_update_counts_less(slow_grid, owners, run):
    grid = slow_grid(owners("a", "b", "c"), {"b": 8.0, "c": 15.0})
    strategy, log = run(grid, 2)
    assert grid.clock.now < 2 * STAGE.deadline_s + 2
    first, second = (metrics for _, metrics, _ in log)
    assert set(first["clients"]) == {"a", "b"}
    assert [row["member"]["name"] for row in first["late"]] == ["c"]
    assert first["failures"] == ["c: no answer in time"]
    assert second["clients"]["c"]["behind"] == 1
    assert second["clients"]["a"]["behind"] == 0
    assert second["late"] == []
    assert weight(strategy, "c") == pytest.approx(0.25 / 3)
    assert weight(strategy, "a") == pytest.approx(1 / 3)
    assert strategy.states["legal"].components["c"].updates == 1


def test_who_is_late_is_not_asked_again_until_it_has_answered(slow_grid, owners, run):
    grid = slow_grid(owners("a", "b", "c"), {"b": 9.0, "c": 35.0})
    strategy, log = run(grid, 4)
    assert [read_task(m).round for m in grid.tasks(TRAIN)["c"]] == [1]
    assert [sorted(metrics["clients"]) for _, metrics, _ in log][:3] == [["a", "b"]] * 3
    assert log[3][1]["clients"]["c"]["behind"] == 3
    assert weight(strategy, "c") == pytest.approx(0.25**3 / 3)


def test_a_late_update_is_refused_where_the_plan_says_so(slow_grid, owners, run):
    stage = ExpertStage(**SHARED, deadline_s=10.0, timeout_s=60.0, late_updates="drop")
    grid = slow_grid(owners("a", "b", "c"), {"c": 15.0})
    strategy, log = run(grid, 2, stage)
    assert [m["late"] for _, m, _ in log] == [[], []]
    assert len(grid.given_up) == 2
    assert "c" not in strategy.states["legal"].components
    assert len(grid.tasks(TRAIN)["c"]) == 2


def test_a_round_goes_on_without_who_is_away_and_uses_what_it_says_when_it_is_back(
    leaving_grid, owners, run
):
    stage = ExpertStage(2, **SHARED, timeout_s=60.0, staleness_decay=0.25)
    grid = leaving_grid(owners("a", "b"), {"b": 1.0})
    strategy, log = run(grid, 2, stage)
    first, second = (metrics for _, metrics, _ in log)
    assert first["failures"] == ["b: b left: asleep"]
    assert [row["member"]["name"] for row in first["late"]] == ["b"]
    assert second["clients"]["b"]["behind"] == 1
    assert weight(strategy, "b") == pytest.approx(0.25 / 2)
    assert len(grid.tasks(TRAIN)["b"]) == 1


def test_where_late_answers_are_refused_those_who_are_away_are_waited_for_by_nobody(
    leaving_grid, owners, run
):
    stage = ExpertStage(1, **SHARED, timeout_s=5.0, late_updates="drop")
    grid = leaving_grid(owners("a", "b"), {"b": 50.0})
    _, log = run(grid, 1, stage)
    assert not hasattr(grid, "kept"), "the grid fails what its node leaves behind"
    assert log[0][1]["late"] == []


def test_after_the_last_round_nobody_is_waited_for(slow_grid, owners, run):
    stage = ExpertStage(1, **SHARED, deadline_s=10.0, timeout_s=60.0)
    grid = slow_grid(owners("a", "b"), {"b": 30.0})
    _, log = run(grid, 1, stage)
    assert log[0][1]["late"] == []
    assert len(grid.given_up) == 1


def test_without_a_quorum_a_round_waits_and_then_fails(slow_grid, owners, run):
    grid = slow_grid(owners("a", "b", "c"), {"b": 30.0, "c": 90.0})
    _, log = run(grid, 1)
    assert 30 <= grid.clock.now <= 32
    assert set(log[0][1]["clients"]) == {"a", "b"}
    grid = slow_grid(owners("a", "b", "c"), {"b": 90.0, "c": 90.0})
    with pytest.raises(RoundError, match=r"1 of 3 clients succeeded: b: no answer in time; c: no"):
        run(grid, 1)
    assert 60 <= grid.clock.now <= 62


def test_a_stage_goes_on_from_its_row_with_who_is_late(slow_grid, owners, run):
    slow = {"b": 8.0, "c": 15.0}
    straight, _ = run(slow_grid(owners("a", "b", "c"), slow), 2)
    assert straight.states["legal"].components["c"].updates == 1
    grid = slow_grid(owners("a", "b", "c"), slow)
    before, log = run(grid, 1)
    late = log[0][1]["late"]
    after, _ = run(grid, 1, progress=Progress(1, restore(dump(before.states)), late))
    assert dump(after.states) == dump(straight.states)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_late_change_is_from_where_its_owner_began(slow_grid, owners, run, momentum, resumed):
    """The aggregate has moved on meanwhile; what counts is what this owner changed."""
    start = {"round_start": "aggregate", "server_momentum": momentum, "codec": "fp32"}
    times = {"deadline_s": 10.0, "timeout_s": 60.0, "staleness_decay": 0.25}
    stage = ExpertStage(5, **(SHARED | times | start))
    people = owners("a", "b", "c")
    grid = slow_grid(people, {"b": 8.0})
    _, log = run(grid, 1, stage)
    grid.slow["c"] = 15.0
    first = Progress(1, log[-1][2], log[-1][1]["late"])
    before, log = run(grid, 1, stage, first)
    assert set(before.states["legal"].starts) == {"c"}
    states = restore(dump(before.states)) if resumed else before.states
    settled = states["legal"].settled["c"]
    after, log = run(grid, 1, stage, Progress(2, states, log[-1][1]["late"]))
    assert log[-1][1]["clients"]["c"]["behind"] == 1
    assert after.states["legal"].starts == {}
    c, gone = people[2], 1 + momentum
    for path, pair in after.states["legal"].settled["c"].items():
        begun, ended = (product(*factors[path]) for factors in (c.begun[-1], c.component))
        moved = product(*pair) - product(*settled[path])
        push = 0.25 / 3 * 2.0 * (ended - begun)
        held = before.states["legal"].momentum.get("c", {}).get(path)
        old = momentum**2 * product(*held) if held else torch.zeros_like(push)
        assert float((moved - gone * push - old).norm()) < 1e-5 * float(push.norm())


def test_when_all_are_late_the_round_waits_for_one(slow_grid, owners, run):
    stage = ExpertStage(**SHARED, deadline_s=1.0, timeout_s=60.0)
    grid = slow_grid(owners("a", "b"), {"a": 3.0, "b": 3.0})
    strategy, _ = run(grid, 1, stage)
    assert set(strategy.states["legal"].components) >= {"a"}


@pytest.mark.parametrize(
    ("share", "asked", "needed"), [(0.0, 5, 1), (0.5, 5, 3), (0.7, 10, 7), (1.0, 3, 3)]
)
def test_quorum(share, asked, needed):
    assert quorum(ExpertStage(quorum_fraction=share), asked) == needed


def test_the_withdrawn_are_left_out_at_the_next_aggregate(slow_grid, owners, shapes, new_log):
    gone = set()
    grid, log = slow_grid(owners("a", "b"), {}), new_log()
    strategy = ExpertStrategy(STAGE, shapes, 7, log, None, lambda: gone)
    strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=1, timeout=5)
    assert set(strategy.states["legal"].components) == {"a", "b"}
    first = strategy.states["legal"].components["a"]
    gone.add("b")
    strategy.done = 1
    strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=1, timeout=5)
    assert set(strategy.states["legal"].components) == {"a"}
    assert log[-1][1]["experts"]["legal"]["owners"] == ["a"]
    assert log[-1][1]["failures"] == ["b: withdrawn"]
    part = strategy.states["legal"].components["a"]
    for path, (b, a) in strategy.states["legal"].aggregate.items():
        once, twice = (p.scale * product(*p.factors[path]) for p in (first, part))
        mine = once / 2 + (twice - once)  # its half of the first round, and all of the second
        assert torch.allclose(product(b, a), mine, rtol=1e-5, atol=1e-7)


def test_a_clients_size_is_what_it_said_first(slow_grid, owners, run):
    clients = owners("a", "b")
    grid = slow_grid(clients, {})
    before, log = run(grid, 1)
    clients[1].size = 2**50
    sizes = log[0][1]["sizes"]
    assert sizes == {"a": 100, "b": 100}
    after, log = run(grid, 2, progress=Progress(1, before.states, (), sizes))
    assert weight(after, "b") == 0.5
    assert log[-1][1]["sizes"] == sizes
    afresh, _ = run(grid, 1)
    assert weight(afresh, "b") > 0.999, "another stage asks anew"


def test_what_the_disk_has_lost_is_not_the_clients_failure(
    slow_grid, fake_client, spoiling, run, tmp_path
):
    record = ArrayRecord()
    record["change"] = StoredArray("uint8", (8,), "fedmore.sign1", tmp_path / "lost")
    answer = RecordDict({"update": record})
    client = fake_client("a", spoil=spoiling(TRAIN, answer))
    with pytest.raises(StoreError, match=str(tmp_path / "lost")):
        run(slow_grid([client, fake_client("b")], {}), 1)


def test_everything_else_is_passed_on(fake_grid, owners):
    inner = fake_grid(owners("a"))
    grid = RoundGrid(inner, STAGE)
    identify()
    assert list(grid.get_node_ids()) == [11]
    message = Message(RecordDict(), dst_node_id=11, message_type="query.hello")
    (key,) = grid.push_messages([message])
    assert [r.metadata.reply_to_message_id for r in grid.pull_messages([key])] == [key]


def test_with_staleness_zero_the_only_owner_late_leaves_its_expert_as_it_was(
    slow_grid, owners, fake_client, run
):
    """Two domains, one owner each; the second answers after the deadline of its round."""
    stage = ExpertStage(
        4, **SHARED, deadline_s=1.0, timeout_s=60.0, quorum_fraction=0.5, staleness_decay=0.0
    )
    late = fake_client("m", target="medical", rank=2, size=100)
    grid = slow_grid([*owners("a"), late], {"a": 0.5, "m": 1.5})
    strategy, log = run(grid, 2, stage)
    assert log[1][1]["clients"]["m"]["behind"] == 1
    state = log[1][2]["medical"]
    assert (state.rank, state.components["m"].updates) == (0, 1)
    assert log[1][1]["experts"]["medical"]["aggregation_error"] == 0.0
    assert strategy.states["legal"].rank > 0
