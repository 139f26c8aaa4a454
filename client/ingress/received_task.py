"""A task at the client's door: read once from its message, and handed on as a value."""

from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from fedmore.client.ingress.plugins import check_plugins, plugins_in, stage_named
from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import EgressError
from fedmore.strategies.members import HELLO
from fedmore.strategies.stages.kinds import StageKind, kinds_asking, load, message_types
from fedmore.strategies.tasks.base import Request
from fedmore.strategies.tasks.schema import TaskSchema


@dataclass(frozen=True)
class ReceivedTask:
    """What a message asks and brings, and the kinds of stages that have such tasks.

    Who reads, judges and does the task is the same in the rows of all `kinds`.
    """

    kinds: tuple[StageKind, ...]
    request: Request[Any]

    @property
    def task(self) -> Any:
        """The settings of the task."""
        return self.request.task


def receive(message: Message, rules: OwnerPolicy) -> ReceivedTask | None:
    """The task in a message; None for the question who the client is.

    Raises `EgressError` for a type of message that no stage has, or a plugin that the owner has not
    allowed, and `WireError` if it is no such task. Nothing of a plugin is imported before that.
    """
    check_plugins(plugins_in(message), rules)
    message_type = message.metadata.message_type
    if message_type == HELLO:
        return None
    kinds = tuple(kinds_asking(message_type, stage_named(message)))
    if not kinds:
        known = ", ".join((HELLO, *message_types()))
        raise EgressError(f"asked for {message_type!r}; only {known} are answered")
    return ReceivedTask(kinds, load(kinds[0].task, TaskSchema).read(message.content))
