"""A member that is started again is told from one that only connects again."""

import pytest

from fedmore.coordinator.rpc.connections import Connections
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.tasks.queue import Task, TaskQueue


@pytest.mark.parametrize(("session", "found"), [("first", []), ("second", ["t"])])
def test_the_session_of_a_stream_tells(tmp_path, session, found):
    with Registry.open(tmp_path) as registry:
        member = registry.enrol(registry.invite("ada"), "ada", "expert", "legal", 4)
    queue = TaskQueue()
    connections = Connections(queue, lambda _: None, 10.0, clock=lambda: 0.0)
    connection = connections.admit(member, "first")
    queue.push([Task("t", member.node_id)])
    queue.keep(["t"])
    assert queue.take(member.node_id).id == "t"
    connections.leave(connection, "no sign of life")
    connections.admit(member, session)
    assert queue.interrupted(["t"]) == found
