"""Joins the bytes counted at sockets with the members' names."""

from fedmore.coordinator.rpc.socket_bytes import SocketMeter, TrafficCounter, parse_peer, supported


class TrafficBook:
    """Traffic by member, used from the server's loop only; empty if the system cannot count."""

    def __init__(self, port: int) -> None:
        self.meter = SocketMeter(port) if supported() else None
        self._counter = TrafficCounter()
        self._last: dict[str, tuple[int, int]] = {}
        self._members: set[str] = set()
        self._waiting: dict[str, tuple[int, int]] = {}

    def identify(self, peer: str, name: str) -> None:
        """Assign the connection from gRPC's `peer` to the member `name`."""
        self._members.add(name)
        self._counter.name(parse_peer(peer), name)

    def invited(self, peer: str, name: str) -> None:
        """Assign a connection with `name`'s invite; it counts after `name` becomes a member."""
        self._counter.name(parse_peer(peer), name)

    def settle(self, peer: str) -> None:
        """Read the connection of gRPC's `peer` once more when a call ends, before it may close."""
        address = parse_peer(peer)
        if self.meter is not None and self._counter.knows(address):
            counts = self.meter.read(address)
            if counts is not None:
                self._last[address] = counts

    def sample(self) -> dict[str, tuple[int, int]]:
        """New bytes (up, down) of every member since the last sample."""
        if self.meter is None:
            return {}
        last, self._last = self._last, {}
        for name, (up, down) in self._counter.update(last | self.meter.sample()).items():
            before = self._waiting.get(name, (0, 0))
            self._waiting[name] = (before[0] + up, before[1] + down)
        return {name: self._waiting.pop(name) for name in [*self._waiting] if name in self._members}
