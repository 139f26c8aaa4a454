"""One reader of a round's replies, for stages of every kind.

A stage says what it asked for, and how the content of a good reply becomes a value. The reader
tells replies that count from those that do not, says why, and is the same for any order of replies.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from flwr.app import Message, RecordDict

from fedmore.experts.errors import WireError
from fedmore.strategies.members import Member, nobody
from fedmore.strategies.rounds.quorum_grid import NO_ANSWER
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.tasks.train import read_metrics


class Asked(Protocol):
    """What a client was asked for."""

    @property
    def name(self) -> str:
        """The client's name."""
        ...


K = TypeVar("K")
A = TypeVar("A", bound=Asked)
T = TypeVar("T")


def by_node(reply: Message) -> int:
    """The key of a stage that expects one reply of each node, however often it asks."""
    return reply.metadata.src_node_id


def by_task(reply: Message) -> str:
    """The key of a stage that expects one reply to each task."""
    return reply.metadata.reply_to_message_id


@dataclass(frozen=True)
class Accepted(Generic[A, T]):
    """A reply that counts: what was asked, the value of the content, and the metrics in it."""

    asked: A
    value: T
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Replies(Generic[K, A, T]):
    """The replies of a round, read.

    `accepted` are in order of the clients' names. `failures` has a line `name: why` for every
    client that has no part in the round, be it an error, a refused reply or none at all.
    `unanswered` are the asks without a reply; those may still be answered late.
    """

    accepted: list[Accepted[A, T]]
    failures: list[str]
    unanswered: dict[K, A]

    @property
    def clients(self) -> dict[str, dict[str, Any]]:
        """The metrics of every client with a part in the round."""
        return {each.asked.name: each.metrics for each in self.accepted}

    def row(self, stage: Stage, number: int, experts: Mapping[str, Any]) -> dict[str, Any]:
        """What the metrics of round `number` say, whatever the kind of stage."""
        return {
            "stage": stage.kind,
            "round": number,
            "clients": self.clients,
            "experts": experts,
            "failures": self.failures,
        }


def read_replies(
    replies: Iterable[Message],
    asked: Mapping[K, A],
    key: Callable[[Message], K],
    read: Callable[[RecordDict, A], T],
    *,
    metrics: Collection[str],
    withdrawn: Callable[[], AbstractSet[str]] = nobody,
    missing: Iterable[str] = (),
    unanswered: Callable[[K, A], str] = lambda _key, _asked: NO_ANSWER,
) -> Replies[K, A, T]:
    """Sort the replies of a round into those that count and the others.

    Args:
        replies: what the grid gave; each answers one of `asked`.
        asked: what clients were asked for, by what `key` gives of a reply.
        key: `by_node` or `by_task`.
        read: the value of a reply's content; raises `WireError` to refuse it.
        metrics: the names of the metrics that a reply has.
        withdrawn: the clients whose replies count no more.
        missing: lines `name: why` of clients that could not be asked.
        unanswered: why there is no reply to what was asked.

    """
    waiting = dict(asked)
    accepted, failures = list[Accepted[A, T]](), list(missing)
    for reply in _last_of_each(replies, key):
        item = waiting.pop(key(reply))
        try:
            value = read(_content(reply, item, withdrawn), item)
            found = read_metrics(reply.content, metrics)
        except WireError as error:
            failures.append(f"{item.name}: {error}")
        else:
            accepted.append(Accepted(item, value, found))
    failures += [f"{item.name}: {unanswered(at, item)}" for at, item in waiting.items()]
    accepted.sort(key=lambda each: each.asked.name)
    names = {each.asked.name for each in accepted}  # it was asked again, and then it answered
    left_out = sorted(text for text in failures if text.partition(": ")[0] not in names)
    return Replies(accepted, left_out, waiting)


def _content(reply: Message, asked: Asked, withdrawn: Callable[[], AbstractSet[str]]) -> RecordDict:
    if reply.has_error():
        raise WireError(reply.error.reason)
    if asked.name in withdrawn():
        raise WireError("withdrawn")
    return reply.content


def _last_of_each(replies: Iterable[Message], key: Callable[[Message], K]) -> list[Message]:
    """One reply for each key: a node that went away in the round may have been asked again."""
    found: dict[K, Message] = {}
    for reply in replies:
        at = key(reply)
        if at not in found or found[at].has_error():
            found[at] = reply
    return list(found.values())


def check_has_text(member: Member) -> None:
    """Raise `WireError` for a member that says that it has no text."""
    if not member.size:
        raise WireError("says that it has no text")
