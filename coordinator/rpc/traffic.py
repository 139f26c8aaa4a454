"""Who moved how many bytes: joins the socket counts with the members' names."""

from fedmore.coordinator.sockets import SocketMeter, TrafficCounter, parse_peer, supported


class TrafficBook:
    """Used from the server's loop only. Where the system cannot count, there are no counts."""

    def __init__(self, port: int) -> None:
        self._meter = SocketMeter(port) if supported() else None
        self._counter = TrafficCounter()

    def identify(self, peer: str, name: str) -> None:
        """The connection from gRPC's `peer` is `name`'s."""
        address = parse_peer(peer)
        if self._meter is not None and not self._counter.knows(address):
            self._meter.discover()
        self._counter.name(address, name)

    def sample(self) -> dict[str, tuple[int, int]]:
        """New bytes (up, down) by name since the last sample."""
        if self._meter is None:
            return {}
        return self._counter.update(self._meter.sample())

    def close(self) -> None:
        """Let go of the sockets."""
        if self._meter is not None:
            self._meter.close()
