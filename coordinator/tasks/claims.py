"""Compares what a client says of itself with what it enrolled as.

A stage asks every client who it is (`fedmore.strategies.members`) and believes the answer. Name,
kind, target and ranks decide whose component moves, and how large it is. Over a network the answer
has to agree with what the member's certificate stands for, and is refused otherwise.
"""

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Message
from sqlalchemy import select

from fedmore.coordinator.store.database import Database
from fedmore.coordinator.store.models import MemberRecord
from fedmore.experts.errors import WireError
from fedmore.strategies.members import HELLO

FIXED = ("name", "kind", "target", "rank", "ranks")
MAX_SIZE = 1 << 50
"""Bytes of text that a client may say it has: a petabyte."""


def check_claims(database: Database, node_id: int, reply: Message) -> None:
    """Raise `WireError` if `reply` is an introduction that is not this member's own."""
    if reply.has_error() or reply.metadata.message_type != HELLO:
        return
    with database.session() as session:
        row = session.scalar(select(MemberRecord).filter_by(node_id=node_id))
        if row is None or row.kind == "app":
            return  # a foreign app's question of that name is not ours
        enrolled = {key: getattr(row, key) for key in FIXED}
    said = reply.content.config_records.get("member", ConfigRecord())
    for key, value in enrolled.items():
        claimed = said.get(key, "" if key == "ranks" else None)  # earlier versions have no pattern
        if claimed != value:
            raise WireError(f"says that its {key} is {claimed!r:.80}; it enrolled as {value!r}")
    _check_rest(said, str(enrolled["target"]))


def _check_rest(said: Mapping[str, Any], target: str) -> None:
    size, experts, updates = said.get("size"), said.get("experts"), said.get("updates")
    if type(size) is not int or not 0 < size <= MAX_SIZE:
        raise WireError(f"says that it has {size!r:.80} bytes of text")
    known = experts in ([], [target]) and isinstance(updates, list)
    if not known or len(experts or ()) != len(updates or ()):
        raise WireError("does not say how many updates of its expert it remembers")
