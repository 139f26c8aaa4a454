"""Who comes, or comes back, while a round is open takes part in it; on the grid of the engines."""

from collections import Counter

import pytest
from flwr.app import ArrayRecord

from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.protos.wire.flower_compat import NODE_UNAVAILABLE, identify, make_reply
from fedmore.strategies.embedding_stage.strategy import EmbeddingStrategy
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.members import HELLO
from fedmore.strategies.rounds import quorum_grid
from fedmore.strategies.rounds.returning_clients import TRIES
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import EMBED, TRAIN, read_task

SHARED = {"steps": 2, "learning_rate": 0.1}


class World:
    """Clients behind a queue that answer at once, but for those whose tasks are `held`.

    Time passes in `sleep` alone; what is due by then happens. `on_task` acts as a client is given
    a task, by its name and round; true: the client does not answer.
    """

    def __init__(self, clients):
        identify()
        self.queue, self.clients = TaskQueue(), dict(enumerate(clients, 11))
        self.nodes = {client.name: node for node, client in self.clients.items()}
        self.now, self.due, self.on_task, self.held = 0.0, {}, {}, set()
        self.stuck, self.asked = {}, []
        self.queue.subscribe(self.serve)

    def come(self, *names, process="first"):
        for name in names:
            self.queue.join(self.nodes[name], process)

    def leave(self, name):
        """It goes in a moment, and answers nothing before."""
        why = f"{name} left: no sign of life for 10 s"
        self.at(self.now + 1, lambda: self.queue.leave(self.nodes[name], why))
        return True

    def at(self, moment, action):
        self.due.setdefault(moment, []).append(action)

    def clock(self):
        return self.now

    def sleep(self, _seconds):
        self.now += 1.0
        assert self.now < 100, "the round does not end"
        for action in self.due.pop(self.now, ()):
            action()

    def release(self, name):
        """Its tasks are answered from now on, those it has too."""
        self.held.discard(name)
        self.answer(*self.stuck.pop(name))

    def serve(self, node):
        client = self.clients[node]
        while task := self.queue.take(node):
            kind = task.content.metadata.message_type
            number = read_task(task.content.content).round if kind == TRAIN else 1
            self.asked.append((client.name, kind, number))
            act = self.on_task.get((client.name, number)) if kind != HELLO else None
            if act and act(client.name):
                return
            if kind != HELLO and client.name in self.held:
                self.stuck[client.name] = (client, task)
            else:
                self.answer(client, task)

    def answer(self, client, task):
        self.queue.reply(task.id, make_reply(task.content, client.answer(task.content)))

    def run(self, strategy, rounds):
        patient = strategy.patient(TaskGrid(self.queue))
        patient._clock, patient._sleep = self.clock, self.sleep
        strategy.start(patient, ArrayRecord(), num_rounds=rounds, timeout=60)

    def trained(self, name):
        """The rounds for which a client was asked to train, in turn."""
        return [number for who, kind, number in self.asked if (who, kind) == (name, TRAIN)]


@pytest.fixture
def world(fake_client):
    made = World([fake_client(name) for name in "abc"] + [fake_client("g", kind="adapter")])
    made.come("a", "b", "c")
    return made


@pytest.fixture
def train(world, shapes, new_log):
    """Run experts' rounds; the metrics of each."""

    def go(rounds, **stage):
        log = new_log()
        strategy = ExpertStrategy(ExpertStage(rounds, **SHARED, **stage), shapes, 7, log)
        world.run(strategy, rounds)
        return strategy, [metrics for _, metrics, _ in log]

    return go


def test_a_client_that_was_started_again_gets_the_task_of_the_round_that_is_open(world, train):
    """Killed in round 2, joined again in round 3: its task of round 2 keeps it out of nothing."""
    world.on_task = {("c", 2): world.leave, ("a", 3): lambda _: world.held.add("a")}
    world.due = {
        3.0: [lambda: world.come("c", process="second")],
        6.0: [lambda: world.release("a")],
    }
    strategy, (_, second, third) = train(3)
    assert second["failures"] == ["c: c left: no sign of life for 10 s"]
    assert set(second["clients"]) == {"a", "b"}
    assert third["failures"] == []
    assert third["clients"]["c"]["behind"] == 0
    assert set(third["clients"]) == {"a", "b", "c"}
    assert strategy.states["legal"].components["c"].updates == 2
    assert world.trained("c")[-1] == 3


def test_a_client_that_was_only_disconnected_goes_on_with_its_task(world, train):
    def lose(name):
        world.held.add(name)
        world.leave(name)

    world.on_task = {("c", 2): lose, ("a", 3): lambda _: world.held.add("a")}
    world.due = {
        3.0: [lambda: world.come("c")],
        4.0: [lambda: world.release("c")],
        6.0: [lambda: world.release("a")],
    }
    _, (_, _, third) = train(3)
    assert third["clients"]["c"]["behind"] == 1
    assert set(world.trained("c")) == {1, 2}


def test_who_is_still_at_an_old_task_is_told_so(world, train):
    def lose(name):
        world.held.add(name)
        world.leave(name)
        world.at(world.now + 3, lambda: world.come("c"))

    world.on_task = {("c", 1): lose, ("a", 2): lambda _: world.held.add("a")}
    world.due = {9.0: [lambda: world.release("a")]}
    _, (_, second) = train(2)
    assert second["failures"] == ["c: still at its task of round 1"]


def test_where_late_answers_are_refused_who_comes_back_is_asked_again(world, train):
    def once(name):
        del world.on_task["c", 1]
        return world.leave(name)

    world.on_task = {("c", 1): once, ("a", 1): lambda _: world.held.add("a")}
    world.due = {
        3.0: [lambda: world.come("c", process="second")],
        5.0: [lambda: world.release("a")],
    }
    _, (first,) = train(1, late_updates="drop")
    assert set(first["clients"]) == {"a", "b", "c"}
    assert first["failures"] == []


def test_who_comes_for_the_first_time_is_asked_and_another_kind_is_not(world, train):
    world.queue.leave(world.nodes["c"], "never came")
    world.on_task = {("a", 1): lambda _: world.held.add("a")}
    world.due = {2.0: [lambda: world.come("c", "g")], 4.0: [lambda: world.release("a")]}
    _, (first,) = train(1)
    assert set(first["clients"]) == {"a", "b", "c"}
    assert world.trained("g") == []


@pytest.mark.parametrize("late", ["keep", "drop"])
def test_who_comes_and_goes_for_ever_does_not_hold_the_round(world, train, late):
    def flap(name):
        world.at(world.now + 3, lambda: world.come("c", process=str(world.now)))
        return world.leave(name)

    world.on_task = {("c", 1): flap, ("a", 1): lambda _: world.held.add("a")}
    world.due = {40.0: [lambda: world.release("a")]}
    _, (first,) = train(1, late_updates=late)
    assert set(first["clients"]) == {"a", "b"}
    greeted = Counter(who for who, kind, _ in world.asked if kind == HELLO)
    assert greeted["c"] <= 1 + TRIES


def test_an_embedding_of_who_comes_back_counts(world, new_log):
    def once(name):
        del world.on_task["c", 1]
        return world.leave(name)

    world.on_task = {("c", 1): once, ("a", 1): lambda _: world.held.add("a")}
    world.due = {
        2.0: [lambda: world.come("c", process="second")],
        4.0: [lambda: world.release("a")],
    }
    log = new_log()
    world.run(EmbeddingStrategy(EmbeddingStage(), 5, 7, log), 1)
    assert set(log[0][2]) == {"a", "b", "c"}
    assert [who for who, kind, _ in world.asked if kind == EMBED].count("c") == 2
    assert log[0][1]["failures"] == []


def test_flowers_code_of_a_node_that_left():
    assert quorum_grid.LEFT == NODE_UNAVAILABLE
