"""How a kind of task is read at a client, and compared with the plan that its owner agreed to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import RecordDict

from fedmore.strategies.tasks.base import Request
from fedmore.strategies.terms import Terms


@dataclass(frozen=True)
class TaskSchema:
    """The schema of the tasks of a kind of stage.

    Args:
        read: the task in a message's content, with what it brings; raises `WireError` for anything
            else. It is called once for a message. A task says its `stage` (a kind) and its `round`.
        differences: in what a task differs from the agreed terms, a line each. Every setting that
            is not the owner's own choice must be compared.

    """

    read: Callable[[RecordDict], Request[Any]]
    differences: Callable[[Terms, Any], list[str]]
