"""Who is on the other side of a grid: every node says so itself, whatever the engine."""

from collections.abc import Container
from collections.abc import Set as AbstractSet
from dataclasses import asdict, field
from typing import Any, Literal, Protocol, runtime_checkable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmore.experts.errors import WireError
from fedmore.strategies.settings import STRICT, faults, parse, patterned

HELLO = "query.hello"


@dataclass(frozen=True, config=STRICT)
class Member:
    """One client as it describes itself; `size` is the bytes of text that it trains on.

    `updates[i]` is how many of its own updates of `experts[i]` its mirrored state holds, and
    `mirrors[i]` the mark of its mirror of that aggregate
    (`fedmore.strategies.expert_stage.aggregate_mirror`), 0 for none. `ranks` is the pattern of its
    ranks (`fedmore.experts.ranks`), of which `rank` is the largest; empty if all are `rank`.
    """

    name: str
    kind: Literal["expert", "adapter"]
    target: str
    rank: int
    size: int
    experts: list[str]
    updates: list[int]
    mirrors: list[int] = field(default_factory=list)
    ranks: str = ""

    def __post_init__(self) -> None:
        """Reject what would break a round."""
        if self.rank < 0 or self.size < 0:
            raise ValueError("rank and size must be 0 or more")
        patterned(self.rank, self.ranks)
        if len(self.experts) != len(self.updates):
            raise ValueError("as many updates as experts")
        if len(self.mirrors) not in (0, len(self.experts)):
            raise ValueError("as many mirrors as experts, or none")

    def updates_of(self, expert: str) -> int:
        """How many of its updates of `expert` the client still knows."""
        return dict(zip(self.experts, self.updates, strict=True)).get(expert, 0)

    def mirror_of(self, expert: str) -> int:
        """The mark of the client's mirror of the aggregate of `expert`; 0 for none."""
        return dict(zip(self.experts, self.mirrors, strict=False)).get(expert, 0)


_MEMBER = TypeAdapter(Member)


@runtime_checkable
class Names(Protocol):
    """A grid that knows what its nodes are called; Flower's own does not."""

    def name_of(self, node_id: int) -> str:
        """The member behind a node id."""
        ...


def name_of(grid: Grid, node_id: int) -> str:
    """A member's name as the operator knows it, or `node` and the id if only that is known."""
    return grid.name_of(node_id) if isinstance(grid, Names) else f"node {node_id}"


def ask_members(
    grid: Grid, timeout_s: float, group: str, busy: Container[int] = ()
) -> tuple[list[tuple[int, Member]], list[str]]:
    """Node id and member of every connected client, in order of name; and why others are missing.

    A client that cannot say who it is, or went away while it was asked, is none of the members;
    who is `busy` is not asked. The answers belong to the round `group`: a coordinator that does the
    round again after a crash finds the same members.
    """
    messages = [
        Message(RecordDict(), dst_node_id=node, message_type=HELLO, group_id=group)
        for node in grid.get_node_ids()
        if node not in busy
    ]
    replies = list(grid.send_and_receive(messages, timeout=timeout_s))
    found, missing = [], []
    for reply in replies:
        node = reply.metadata.src_node_id
        try:
            found.append((node, member_of(reply)))
        except WireError as error:
            missing.append(f"{name_of(grid, node)}: {error}")
    return sorted(found, key=lambda pair: pair[1].name), sorted(missing)


def hello(member: Member) -> RecordDict:
    """A client's answer to `HELLO`; without a pattern it is what earlier versions say."""
    config: Any = asdict(member)
    if not member.ranks:
        del config["ranks"]
    return RecordDict({"member": ConfigRecord(config)})


def member_of(reply: Message) -> Member:
    """The member in an answer to `HELLO`; raises `WireError` for anything else."""
    if reply.has_error():
        raise WireError(reply.error.reason)
    record = reply.content.config_records.get("member", ConfigRecord())
    try:
        return parse(_MEMBER, record)
    except ValidationError as error:
        raise WireError(f"does not say who it is: {faults(error)}") from error


def nobody() -> AbstractSet[str]:
    """No client is withdrawn."""
    return frozenset()
