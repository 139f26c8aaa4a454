"""The only module that uses Flower's internals.

`tests/protos/wire/test_flower_compat.py` is its contract.

In Flower, a SuperLink gives a message its id and a process its identity. Here this module does.
"""

import logging
from typing import TYPE_CHECKING, Any

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

COORDINATOR = 1
"""Node id of the server side in Flower."""

RUN = 1
"""The run id; a federation has one run, with its state in the registry."""

CLIENT_RAISED = 2
REPLY_UNAVAILABLE = 4
NODE_UNAVAILABLE = 5
"""Error codes as Flower numbers them."""

EmptyRun = Run.create_empty
RunType = Run


def identify(run_id: int = RUN) -> None:
    """Make `Message(content, node, type)` work in this process, as strategies use it."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = COORDINATOR
    TaskIdentity.task_id = run_id


def stamp(message: Message, message_id: str) -> Message:
    """Set the id of `message` in place, as Flower's own grids do; returns it."""
    message.metadata.__dict__["_message_id"] = message_id
    return message


def make_task(
    content: RecordDict,
    *,
    task_id: str,
    node_id: int,
    message_type: str,
    group_id: str = "",
    created_at: float = 0.0,
    ttl: float = 43_200.0,
    run_id: int = RUN,
) -> Message:
    """Make an instruction as the client gets it; raises `ValueError` for an unknown message type.

    Args:
        content: the records.
        task_id: id of the message.
        node_id: the client.
        message_type: such as `train`.
        group_id: id of the group of messages.
        created_at: creation time, seconds since 1970.
        ttl: lifetime, seconds.
        run_id: Flower's run.

    """
    metadata = Metadata(
        run_id=run_id,
        message_id=task_id,
        src_node_id=COORDINATOR,
        dst_node_id=node_id,
        reply_to_message_id="",
        group_id=group_id,
        created_at=created_at,
        ttl=ttl,
        message_type=message_type,
    )
    # Flower's own `make_message` calls it this way; the overloads do not have it.
    message: Message = Message(metadata=metadata, content=content)  # type: ignore[call-overload]
    return message


def make_reply(task: Message, content: RecordDict) -> Message:
    """Make the reply to `task`, with its own id."""
    return stamp(Message(content, reply_to=task), f"{task.metadata.message_id}.reply")


def make_failure(task: Message, reason: str, code: int = CLIENT_RAISED) -> Message:
    """Make the error reply to `task`: `has_error()` is true and `error.reason` is `reason`."""
    error = Error(code=code, reason=reason)
    return stamp(Message(error, reply_to=task), f"{task.metadata.message_id}.reply")


def simulate(server: "ServerApp", client: "ClientApp", nodes: int, backend: dict[str, Any]) -> None:
    """Run both apps in Flower's simulation, in Ray, without its log.

    `backend` is Flower's `backend_config`. Raises what `server` raises.
    """
    from flwr.simulation import run_simulation  # late, because it is a heavy import

    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        run_simulation(server, client, nodes, backend_config=backend)
    finally:
        log.setLevel(level)
