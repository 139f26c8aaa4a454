"""Counts the bytes of each client's connection, with the kernel's counters at the socket.

The counters are those of Linux's `TCP_INFO`: everything above TCP, including TLS and HTTP/2
framing, without IP and TCP headers and retransmissions. gRPC owns the sockets, so they are found in
/proc/self/fd and read there, without duplicates. A connection is also read when one of its calls
ends. So only the bytes after its last call are lost, about 100 for the goodbye.
"""

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmore.coordinator.rpc.descriptors import limit_of_descriptors
from fedmore.experts.errors import TransportError

_FDS = Path("/proc/self/fd")
# struct tcp_info (linux/tcp.h): tcpi_state is byte 0; tcpi_bytes_acked and tcpi_bytes_received
# are the 64-bit words at 120 and 128, there since Linux 4.1.
_OFFSET = 120
_LENGTH = _OFFSET + 16


def supported() -> bool:
    """Whether this system can count: Linux with /proc."""
    return sys.platform == "linux" and _FDS.is_dir()


class SocketMeter:
    """Reads and closes the accepted connections of this process's TCP port `port`.

    It is not thread-safe, so call it from one thread.
    """

    descriptors = 0
    """Number of the process's descriptors at the last look."""

    def __init__(self, port: int) -> None:
        if not supported():
            raise TransportError("bytes at the socket can be counted on Linux only")
        self._port = port
        self._sockets: dict[str, _Socket] = {}
        self._others: dict[int, int] = {}

    def discover(self) -> set[str]:
        """Find the present connections, each as its peer's "ip:port"."""
        known = {found.inode: peer for peer, found in self._sockets.items()}
        others, alive = {}, set()
        handles = _handles()
        self.descriptors = len(handles)
        for handle in handles:
            with contextlib.suppress(OSError):  # closed meanwhile or not connected
                status = os.fstat(handle)
                inode = status.st_ino
                if not stat.S_ISSOCK(status.st_mode):
                    continue
                if self._others.get(handle) == inode:
                    others[handle] = inode
                elif inode in known:
                    alive.add(known[inode])
                elif peer := self._adopt(_Socket(inode, handle)):
                    alive.add(peer)
                elif peer is not None:
                    others[handle] = inode
        self._others = others
        self._sockets = {peer: self._sockets[peer] for peer in alive}
        return alive

    def sample(self) -> dict[str, tuple[int, int]]:
        """Bytes (received, sent) of each connection so far, by the peer's "ip:port"."""
        found = {peer: self.read(peer) for peer in self.discover()}
        return {peer: counts for peer, counts in found.items() if counts is not None}

    def read(self, peer: str) -> tuple[int, int] | None:
        """Bytes (received, sent) of one connection so far; None if it is gone."""
        with contextlib.suppress(OSError, KeyError), self._find(peer).borrowed() as connection:
            return _read(connection)
        return None

    def hang_up(self, peer: str) -> None:
        """Shut down the connection from `peer` in both directions; gRPC then closes it."""
        with contextlib.suppress(OSError, KeyError), self._find(peer).borrowed() as connection:
            connection.shutdown(socket.SHUT_RDWR)

    def _find(self, peer: str) -> "_Socket":
        if peer not in self._sockets:
            self.discover()
        return self._sockets[peer]

    def _adopt(self, found: "_Socket") -> str | None:
        """The peer if the connection is to our port.

        Empty if not, None if it is not connected yet.
        """
        with found.borrowed() as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return ""
            if connection.getsockname()[1] != self._port:
                return ""
            peer = _address(connection)
        self._sockets[peer] = found
        return peer


@dataclass(frozen=True)
class _Socket:
    """A descriptor that gRPC owns, with its inode at the time when it was found."""

    inode: int
    handle: int

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[socket.socket]:
        """Yield the socket; raises `OSError` if the descriptor belongs to another file by now."""
        self._check()
        connection = socket.socket(fileno=self.handle)
        try:
            yield connection
            self._check()
        finally:
            connection.detach()

    def _check(self) -> None:
        if os.fstat(self.handle).st_ino != self.inode:
            raise OSError(errno.EBADF, "the descriptor is another's")


def _handles() -> list[int]:
    """Descriptors of this process; if none is free for the listing, each number is tried."""
    try:
        return [int(name) for name in os.listdir(_FDS)]  # noqa: PTH208 - there may be thousands
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
    return [handle for handle in range(limit_of_descriptors()) if _is_open(handle)]


def _is_open(handle: int) -> bool:
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True


class TrafficCounter:
    """Computes new bytes since the last sample, by name, over all connections."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._counted: dict[str, tuple[int, int]] = {}

    def knows(self, peer: str) -> bool:
        """Whether the connection from `peer` has a name."""
        return peer in self._names

    def name(self, peer: str, name: str) -> None:
        """Assign the connection from `peer` to `name`, including its earlier bytes."""
        if self._names.get(peer, name) != name:
            self._counted.pop(peer, None)
        self._names[peer] = name

    def update(self, sample: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """New bytes (received, sent) by name; connections without a name are counted later."""
        fresh: dict[str, tuple[int, int]] = {}
        for peer, (received, sent) in sample.items():
            name = self._names.get(peer)
            if name is None:
                continue
            before = self._counted.get(peer, (0, 0))
            if received < before[0] or sent < before[1]:
                before = (0, 0)  # a new connection from the same port
            up, down = fresh.get(name, (0, 0))
            fresh[name] = (up + received - before[0], down + sent - before[1])
            self._counted[peer] = (received, sent)
        for peer in self._names.keys() - sample.keys():
            del self._names[peer]
            self._counted.pop(peer, None)
        return {name: count for name, count in fresh.items() if any(count)}


def parse_peer(peer: str) -> str:
    """Convert gRPC's "ipv4:1.2.3.4:5" or "ipv6:%5B::1%5D:5" to the "ip:port" of `SocketMeter`."""
    _, _, rest = peer.replace("%5B", "[").replace("%5D", "]").partition(":")
    host, _, port = rest.rpartition(":")
    return _join(host.strip("[]"), int(port)) if port.isdigit() else peer


def _join(host: str, port: int) -> str:
    return f"{host.removeprefix('::ffff:')}:{port}"


def _address(connection: socket.socket) -> str:
    host, port = connection.getpeername()[:2]
    return _join(str(host), int(port))


def _read(connection: socket.socket) -> tuple[int, int]:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < _LENGTH:
        raise TransportError("this kernel's TCP_INFO has no byte counts; Linux 4.1 or newer does")
    acked, received = struct.unpack_from("=QQ", info, _OFFSET)
    return received, acked
