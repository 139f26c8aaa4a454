import threading

import pytest

from fedmore.coordinator.rpc.event_dispatcher import Dispatcher
from fedmore.strategies.events import Joined, Left, Progress, Traffic


class Slow:
    """A listener that is stuck with the first event until `go`."""

    def __init__(self):
        self.heard, self.stuck, self.go = [], threading.Event(), threading.Event()

    def __call__(self, event):
        self.stuck.set()
        assert self.go.wait(20)
        self.heard.append(event)


@pytest.fixture
def slow():
    return Slow()


def progress(name, step):
    return Progress(name, "experts", 1, step, 100, 1.0, 1.0, 1)


def behind(slow, limit=10_000):
    dispatcher = Dispatcher(slow, limit)
    dispatcher.put(Left("first", ""))
    assert slow.stuck.wait(10)
    return dispatcher


def test_a_listener_that_is_behind_hears_the_latest_progress_and_all_traffic(slow):
    dispatcher = behind(slow)
    for step in range(1000):
        dispatcher.put(progress("ada", step))
        dispatcher.put(progress("bob", step))
        dispatcher.put(Traffic("ada", 1, 2))
    dispatcher.put(Joined("eve", "expert", "legal", 4))
    slow.go.set()
    dispatcher.close()
    last = [progress("ada", 999), progress("bob", 999), Traffic("ada", 1000, 2000)]
    assert slow.heard == [Left("first", ""), *last, Joined("eve", "expert", "legal", 4)]


def test_what_is_too_much_is_left_out_and_counted(slow, caplog):
    dispatcher = behind(slow, limit=3)
    for number in range(10):
        dispatcher.put(Left(str(number), ""))
    slow.go.set()
    dispatcher.close()
    assert [event.name for event in slow.heard] == ["first", "0", "1", "2"]
    assert "7 events were left out" in caplog.text


def test_a_listener_that_fails_hears_the_next_event_all_the_same(caplog):
    heard = []

    def listener(event):
        heard.append(event.name)
        if event.name == "ada":
            raise ValueError("no")

    dispatcher = Dispatcher(listener)
    for name in ("ada", "bob"):
        dispatcher.put(Left(name, ""))
    dispatcher.close()
    assert heard == ["ada", "bob"]
    assert "the listener failed" in caplog.text
