"""A grid that counts what becomes of a foreign app's tasks: one whose tasks all failed has failed.

Flower's strategies log a client's failure and go on, also when nobody is left.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.experts.errors import RoundError
from fedmore.protos.system.terminal import plain
from fedmore.protos.wire.flower_compat import RunType

LONGEST_REASON = 300
TRAIN = "train"


class WatchedGrid(Grid):
    """Passes everything on to `grid`; `name_of` gives a node's name."""

    def __init__(self, grid: Grid, name_of: Callable[[int], str]) -> None:
        self.grid, self._name_of = grid, name_of
        self._good: Counter[str] = Counter()
        self._failed: dict[str, dict[str, str]] = {}

    def check(self) -> list[str]:
        """Warnings of kinds of messages that nobody answered well.

        Raises `RoundError`, with every client's last cause, if no task succeeded at all, or none
        of those that train.
        """
        hopeless = {kind: why for kind, why in self._failed.items() if not self._good[kind]}
        trains = [kind for kind in hopeless if kind.partition(".")[0] == TRAIN]
        if trains or (hopeless and not self._good.total()):
            kinds = trains or list(hopeless)
            every = {name: why for kind in kinds for name, why in hopeless[kind].items()}
            causes = "; ".join(f"{name}: {why}" for name, why in sorted(every.items()))
            raise RoundError(f"every task of the app failed: {causes}")
        return [
            f"nobody answered {kind!r}: " + "; ".join(f"{n}: {w}" for n, w in sorted(found.items()))
            for kind, found in hopeless.items()
        ]

    def set_run(self, run: RunType) -> None:
        """Pass the call on to the wrapped grid."""
        self.grid.set_run(run)

    @property
    def run(self) -> RunType:
        """The run of the grid beneath."""
        return self.grid.run

    def create_message(  # type: ignore[override]
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str
    ) -> Message:
        """Pass the call on to the wrapped grid."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Pass the call on to the wrapped grid."""
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass the call on to the wrapped grid."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on, and count."""
        return self._counted(self.grid.pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on, and count."""
        return self._counted(self.grid.send_and_receive(messages, timeout=timeout))

    def _counted(self, replies: Iterable[Message]) -> list[Message]:
        found = list(replies)
        for reply in found:
            kind = reply.metadata.message_type
            if reply.has_error():
                name = self._name_of(reply.metadata.src_node_id)
                reason = plain(reply.error.reason or "failed", LONGEST_REASON)
                self._failed.setdefault(kind, {})[name] = reason
            else:
                self._good[kind] += 1
        return found
