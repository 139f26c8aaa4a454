"""A task on its way to a node, and what a mailbox holds for its answer."""

from dataclasses import dataclass
from typing import Any

from fedmore.protos.wire.flower_compat import REPLY_UNAVAILABLE

Answer = object
"""What a carrier makes a reply of, or `Failed`."""


@dataclass(frozen=True)
class Task:
    """A task for a node; `content` is whatever its carrier needs to know it again."""

    id: str
    node_id: int
    content: Any = None


@dataclass(frozen=True)
class Failed:
    """An answer that is none, with the reason and Flower's code for it."""

    reason: str
    code: int = REPLY_UNAVAILABLE


def absent(node_id: int) -> str:
    """Why a task fails whose node is not there."""
    return f"node {node_id} is not connected"
