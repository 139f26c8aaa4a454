"""Every grid that wraps another passes on what it does not change, our own grid's calls too."""

import inspect
import threading

import pytest
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.coordinator.run.watched_grid import WatchedGrid
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.protos.wire.flower_compat import EmptyRun, identify
from fedmore.sims.engines.stoppable import Stoppable
from fedmore.strategies.members import name_of
from fedmore.strategies.rounds.delegating_grid import DelegatingGrid, Keeps, Restarts, Withdraws
from fedmore.strategies.rounds.quorum_grid import RoundGrid
from fedmore.strategies.stages.expert import ExpertStage

WRAPPERS = {
    "delegating": DelegatingGrid,
    "round": lambda grid: RoundGrid(grid, ExpertStage()),
    "watched": WatchedGrid,
    "stoppable": lambda grid: Stoppable(grid, threading.Event()),
    "two of them": lambda grid: RoundGrid(
        Stoppable(grid, threading.Event()), ExpertStage(timeout_s=0.1)
    ),
}
CALLS = {
    "set_run": (EmptyRun(3),),
    "create_message": (RecordDict(), "train", 5, "experts/1"),
    "get_node_ids": (),
    "get_nodes": (),
    "push_messages": ([],),
    "pull_messages": (["a"],),
    "name_of": (5,),
    "keep": (["a"],),
    "away": (["a"],),
    "interrupted": (["a"],),
    "withdraw": (["a"], "enough"),
}
OURS = {"name_of", "keep", "away", "interrupted", "withdraw"}


def recording(calls, names):
    """A grid that has the methods `names`, notes each call and answers with its name."""

    def method(name):
        def call(_self, *args, **_kwargs):
            calls.append(name)
            return [] if name == "pull_messages" else [name, *args]

        return call

    methods = {name: method(name) for name in names}
    return type("Recording", (Grid,), {**methods, "run": property(lambda _: EmptyRun(7))})()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_reaches_the_grid_beneath(wrapper, call):
    calls = []
    grid = WRAPPERS[wrapper](recording(calls, {*CALLS, "send_and_receive"}))
    answer = getattr(grid, call)(*CALLS[call])
    assert calls == [call]
    if call == "pull_messages":
        assert list(answer) == []
    elif call not in {"set_run", "keep", "withdraw"}:
        assert next(iter(answer)) == call


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_run_is_that_of_the_grid_beneath(wrapper):
    grid = WRAPPERS[wrapper](recording([], {*CALLS, "send_and_receive"}))
    assert grid.run.run_id == 7


def test_no_call_of_our_own_grid_is_left_out():
    public = {name for name, _ in inspect.getmembers(TaskGrid, inspect.isfunction)}
    wanted = {name for name in public if not name.startswith("_")}
    assert wanted - {"send_and_receive"} == set(CALLS)
    assert wanted <= vars(DelegatingGrid).keys()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_over_a_grid_of_flowers_nothing_is_kept_or_taken_back(wrapper):
    beneath = recording([], {*CALLS, "send_and_receive"} - OURS)
    assert not any(isinstance(beneath, kind) for kind in (Keeps, Withdraws, Restarts))
    grid = WRAPPERS[wrapper](beneath)
    grid.keep(["a"])
    grid.withdraw(["a"], "enough")
    assert (dict(grid.away(["a"])), list(grid.interrupted(["a"]))) == ({}, [])
    assert not grid.withdraws
    assert (grid.name_of(5), name_of(grid, 5)) == ("node 5", "node 5")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_tasks_of_our_own_grid_are_taken_back_through_wrappers(wrapper):
    identify()
    queue = TaskQueue()
    queue.join(5)
    grid = WRAPPERS[wrapper](TaskGrid(queue, names=lambda node: f"member {node}"))
    ids = list(grid.push_messages([Message(RecordDict(), 5, "train")]))
    assert grid.withdraws
    grid.withdraw(ids, "enough")
    (reply,) = grid.pull_messages(ids)
    assert reply.error.reason == "enough"
    assert grid.name_of(5) == "member 5"
