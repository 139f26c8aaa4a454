"""A task on its way to a node, and what a queue holds as its answer."""

from dataclasses import dataclass
from typing import Any

from fedmore.protos.wire.flower_compat import REPLY_UNAVAILABLE

Answer = object
"""What a backend makes a reply of, or `Failed`."""


@dataclass(frozen=True)
class Task:
    """A task for a node; `content` is what its backend needs to find the task again."""

    id: str
    node_id: int
    content: Any = None


@dataclass(frozen=True)
class Failed:
    """A task that ended without a reply: the reason, and Flower's error code."""

    reason: str
    code: int = REPLY_UNAVAILABLE


def absent(node_id: int) -> str:
    """The reason of a task that fails because its node is not connected."""
    return f"node {node_id} is not connected"
