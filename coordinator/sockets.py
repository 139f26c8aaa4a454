"""Bytes that crossed each client's connection, counted by the kernel at the socket.

The counts are those of Linux's `TCP_INFO`: everything above TCP, with TLS and HTTP/2 framing,
without IP and TCP headers and without retransmissions. gRPC owns the sockets, so they are found in
/proc/self/fd and duplicated: a duplicate still answers after gRPC has closed its own, so the last
bytes of a connection are not lost.
"""

import contextlib
import os
import socket
import stat
import struct
import sys
from pathlib import Path

from fedmore.experts.errors import TransportError

_FDS = Path("/proc/self/fd")
# struct tcp_info (linux/tcp.h): tcpi_state is byte 0; tcpi_bytes_acked and tcpi_bytes_received
# are the 64-bit words at 120 and 128, there since Linux 4.1.
_OFFSET = 120
_LENGTH = _OFFSET + 16
_CLOSED = 7


def supported() -> bool:
    """Whether this system can count: Linux with /proc."""
    return sys.platform == "linux" and _FDS.is_dir()


class SocketMeter:
    """Counts the accepted connections of the TCP port `port` of this process.

    Not thread-safe: call it from one thread.
    """

    def __init__(self, port: int) -> None:
        if not supported():
            raise TransportError("bytes at the socket can be counted on Linux only")
        self._port = port
        self._sockets: dict[int, tuple[str, socket.socket]] = {}

    def discover(self) -> set[int]:
        """Take hold of connections not seen before; the inodes of all that gRPC still has."""
        own = {duplicate.fileno() for _, duplicate in self._sockets.values()}
        alive = set()
        # Every new connection waits for this: plain calls, for it looks at all there are.
        for handle in {int(name) for name in os.listdir(_FDS)} - own:  # noqa: PTH208
            with contextlib.suppress(OSError):  # closed meanwhile, or not connected
                status = os.fstat(handle)
                if stat.S_ISSOCK(status.st_mode):
                    alive.add(status.st_ino)
                    if status.st_ino not in self._sockets:
                        self._adopt(status.st_ino, handle)
        return alive

    def sample(self) -> dict[str, tuple[int, int]]:
        """Bytes (received, sent) so far of each connection, by the peer's "ip:port".

        A connection that has ended is reported one last time.
        """
        alive = self.discover()
        counts = {}
        for inode, (peer, duplicate) in list(self._sockets.items()):
            state, received, sent = _read(duplicate)
            counts[peer] = (received, sent)
            if state == _CLOSED or inode not in alive:
                self._sockets.pop(inode)[1].close()
        return counts

    def close(self) -> None:
        """Give the duplicates back."""
        for _, duplicate in self._sockets.values():
            duplicate.close()
        self._sockets.clear()

    def _adopt(self, inode: int, handle: int) -> None:
        duplicate = socket.socket(fileno=os.dup(handle))
        try:
            if duplicate.family in (socket.AF_INET, socket.AF_INET6) and (
                duplicate.getsockname()[1] == self._port
            ):
                self._sockets[inode] = (_address(duplicate), duplicate)
        finally:
            if inode not in self._sockets:
                duplicate.close()


class TrafficCounter:
    """What is new since the last look, over any number of connections of any number of names."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._counted: dict[str, tuple[int, int]] = {}

    def knows(self, peer: str) -> bool:
        """Whether the connection from `peer` has a name."""
        return peer in self._names

    def name(self, peer: str, name: str) -> None:
        """From now on the connection from `peer` is `name`'s, what it carried before included."""
        if self._names.get(peer, name) != name:
            self._counted.pop(peer, None)
        self._names[peer] = name

    def update(self, sample: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """New bytes (received, sent) by name; connections of nobody known wait for their name."""
        fresh: dict[str, tuple[int, int]] = {}
        for peer, (received, sent) in sample.items():
            name = self._names.get(peer)
            if name is None:
                continue
            before = self._counted.get(peer, (0, 0))
            if received < before[0] or sent < before[1]:
                before = (0, 0)  # another connection from the same port
            up, down = fresh.get(name, (0, 0))
            fresh[name] = (up + received - before[0], down + sent - before[1])
            self._counted[peer] = (received, sent)
        for peer in self._names.keys() - sample.keys():
            del self._names[peer]
            self._counted.pop(peer, None)
        return {name: count for name, count in fresh.items() if any(count)}


def parse_peer(peer: str) -> str:
    """GRPC's "ipv4:1.2.3.4:5" or "ipv6:%5B::1%5D:5" as the "ip:port" of a `SocketMeter`."""
    _, _, rest = peer.replace("%5B", "[").replace("%5D", "]").partition(":")
    host, _, port = rest.rpartition(":")
    return _join(host.strip("[]"), int(port)) if port.isdigit() else peer


def _join(host: str, port: int) -> str:
    return f"{host.removeprefix('::ffff:')}:{port}"


def _address(connection: socket.socket) -> str:
    host, port = connection.getpeername()[:2]
    return _join(str(host), int(port))


def _read(connection: socket.socket) -> tuple[int, int, int]:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < _LENGTH:
        raise TransportError("this kernel's TCP_INFO has no byte counts; Linux 4.1 or newer does")
    acked, received = struct.unpack_from("=QQ", info, _OFFSET)
    return info[0], received, acked
