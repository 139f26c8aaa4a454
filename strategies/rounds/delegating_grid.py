"""The one class of grids that wrap another: a wrapper overrides only what it changes."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.strategies.members import name_of


@runtime_checkable
class Keeps(Protocol):
    """A grid whose tasks may wait for nodes that are away; Flower's own cannot."""

    def keep(self, message_ids: Iterable[str]) -> None:
        """Have tasks stay open while their nodes are away."""
        ...

    def away(self, message_ids: Iterable[str]) -> Mapping[str, str]:
        """The open tasks among them whose nodes are away, and why."""
        ...


@runtime_checkable
class Withdraws(Protocol):
    """A grid that can take a task back; Flower's own cannot."""

    def withdraw(self, message_ids: Iterable[str], reason: str) -> None:
        """Tell the nodes to stop; what they answer is dropped."""
        ...


@runtime_checkable
class Restarts(Protocol):
    """A grid that tells a client that was started again from one that was only disconnected."""

    def interrupted(self, message_ids: Iterable[str]) -> Collection[str]:
        """The open tasks among them that were given to an earlier process of a node now here."""
        ...


class DelegatingGrid(Grid):
    """A grid that passes every call on to `grid`: Flower's calls, and those of our own grid.

    Flower's grids lack the latter. Over such a grid no task is kept or taken back, no node is
    known to be away or started again, and a node is called by its number.
    """

    def __init__(self, grid: Grid) -> None:
        self._inner = grid

    @property
    def grid(self) -> Grid:
        """The grid beneath."""
        return self._inner

    def set_run(self, run: Any) -> None:
        """Set the Flower run that messages belong to."""
        self.grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run of the grid beneath."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's older way of `Message(content, dst_node_id, message_type)`."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are there."""
        return self.grid.get_node_ids()

    def get_nodes(self) -> Any:
        """What Flower knows of each node that is there."""
        return self.grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; returns their ids."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come by now."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for their replies, for `timeout` seconds at most."""
        return self.grid.send_and_receive(messages, timeout=timeout)

    def name_of(self, node_id: int) -> str:
        """The member behind a node id."""
        return name_of(self.grid, node_id)

    def keep(self, message_ids: Iterable[str]) -> None:
        """Have tasks stay open while their nodes are away."""
        if isinstance(self.grid, Keeps):
            self.grid.keep(message_ids)

    def away(self, message_ids: Iterable[str]) -> Mapping[str, str]:
        """The open tasks among them whose nodes are away, and why."""
        return self.grid.away(message_ids) if isinstance(self.grid, Keeps) else {}

    def interrupted(self, message_ids: Iterable[str]) -> Collection[str]:
        """The open tasks among them that were given to an earlier process of a node now here."""
        return self.grid.interrupted(message_ids) if isinstance(self.grid, Restarts) else ()

    @property
    def withdraws(self) -> bool:
        """Whether the grid beneath can take a task back."""
        grid = self.grid
        return grid.withdraws if isinstance(grid, DelegatingGrid) else isinstance(grid, Withdraws)

    def withdraw(self, message_ids: Iterable[str], reason: str) -> None:
        """Tell the nodes to stop; what they answer is dropped."""
        if isinstance(self.grid, Withdraws):
            self.grid.withdraw(message_ids, reason)
