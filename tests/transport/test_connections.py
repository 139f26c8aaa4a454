import pytest

from fedmore.coordinator.rpc.connections import OUSTED, REPLACED, Connections
from fedmore.coordinator.store.records import Member
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import NameTakenError
from fedmore.strategies.events import Joined, Left

TIMEOUT_S = 10.0


class World:
    """Connections with a clock that the test turns."""

    def __init__(self):
        self.now = 0.0
        self.events = []
        self.queue = TaskQueue()
        self.connections = Connections(
            self.queue, self.events.append, TIMEOUT_S, clock=lambda: self.now
        )

    def pass_time(self, seconds):
        """As the server does: a sweep every second."""
        for _ in range(int(seconds)):
            self.now += 1
            self.connections.sweep()


@pytest.fixture
def world():
    return World()


@pytest.fixture
def member(tmp_path):
    from fedmore.coordinator.store.registry import Registry

    with Registry.open(tmp_path) as registry:
        found = registry.enrol(registry.invite("ada"), "ada", "expert", "legal", 4)
    assert isinstance(found, Member)
    return found


def test_silence_ends_a_member(world, member):
    connection = world.connections.admit(member, "s")
    world.pass_time(9)
    world.connections.seen(connection)
    world.pass_time(10)
    assert world.queue.nodes() == [member.node_id]
    world.pass_time(1)
    assert world.queue.nodes() == []
    reason = "no sign of life for 10 s"
    assert world.events == [Joined("ada", "expert", "legal", 4), Left("ada", reason)]
    assert connection.ending == reason


def test_when_the_coordinator_slept_nobody_is_blamed(world, member):
    world.connections.admit(member, "s")
    world.now += 3600
    world.pass_time(1)
    assert world.queue.nodes() == [member.node_id]
    world.pass_time(11)
    assert world.queue.nodes() == []


def test_a_stream_that_ends_without_a_word_may_come_back(world, member):
    first = world.connections.admit(member, "s")
    world.connections.detach(first)
    world.pass_time(5)
    second = world.connections.admit(member, "s")
    world.pass_time(6)
    world.connections.detach(first)
    assert world.queue.nodes() == [member.node_id]
    assert second.ending is None
    assert world.events == [Joined("ada", "expert", "legal", 4)]


def test_a_newer_stream_of_the_same_client_replaces_one_that_hangs(world, member):
    first = world.connections.admit(member, "s")
    second = world.connections.admit(member, "s")
    assert first.ending == REPLACED
    world.connections.detach(first)
    world.connections.leave(first, "too late to matter")
    assert second.ending is None
    assert world.queue.nodes() == [member.node_id]


def test_another_process_with_the_same_key_takes_over_and_the_older_does_not_come_back(
    world, member
):
    first = world.connections.admit(member, "s")
    second = world.connections.admit(member, "t")
    assert (first.ending, second.ending) == (OUSTED, None)
    world.connections.detach(first)
    with pytest.raises(NameTakenError, match="another process has connected with this client's"):
        world.connections.admit(member, "s")
    world.connections.detach(second)
    assert world.connections.admit(member, "t").ending is None
    assert world.events == [Joined("ada", "expert", "legal", 4)]


def test_stalls_of_the_coordinator_are_not_counted_against_a_member(world, member):
    """Ten stalls of a minute, each followed by a second in which it is heard."""
    connection = world.connections.admit(member, "s")
    for _ in range(10):
        world.now += 60
        world.connections.sweep()
        world.pass_time(1)
        world.connections.seen(connection)
    assert world.queue.nodes() == [member.node_id]


@pytest.mark.parametrize("sign", ["bytes", "a piece of a blob"])
def test_whatever_comes_from_a_member_is_a_sign_of_life(world, member, sign):
    world.connections.admit(member, "s")
    for _ in range(5):
        world.pass_time(9)
        if sign == "bytes":
            world.connections.heard({"ada"})
        else:
            world.connections.alive(member.node_id)
    assert world.queue.nodes() == [member.node_id]
    world.connections.heard({"bob"})
    world.pass_time(11)
    assert world.queue.nodes() == []


def test_who_was_seen_is_told_once(world, member):
    connection = world.connections.admit(member, "s")
    world.connections.seen(connection)
    assert world.connections.take_seen() == {"ada"}
    assert world.connections.take_seen() == set()
