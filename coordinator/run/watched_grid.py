"""A grid that counts what becomes of a foreign app's tasks: one whose tasks all failed has failed.

Flower's strategies log a client's failure and go on, also when nobody is left.
"""

from collections import Counter
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from fedmore.experts.errors import RoundError
from fedmore.protos.system.terminal import plain
from fedmore.strategies.rounds.delegating_grid import DelegatingGrid

LONGEST_REASON = 300
TRAIN = "train"


class WatchedGrid(DelegatingGrid):
    """Counts the replies that `grid` gives, good ones and errors."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
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

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on, and count."""
        return self._counted(super().pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on, and count."""
        return self._counted(super().send_and_receive(messages, timeout=timeout))

    def _counted(self, replies: Iterable[Message]) -> list[Message]:
        found = list(replies)
        for reply in found:
            kind = reply.metadata.message_type
            if reply.has_error():
                name = self.name_of(reply.metadata.src_node_id)
                reason = plain(reply.error.reason or "failed", LONGEST_REASON)
                self._failed.setdefault(kind, {})[name] = reason
            else:
                self._good[kind] += 1
        return found
