"""Bytes that crossed each client's connection, counted by the kernel at the socket.

The counts are those of Linux's `TCP_INFO`: everything above TCP, with TLS and HTTP/2 framing,
without IP and TCP headers and without retransmissions. gRPC owns the sockets, so they are found in
/proc/self/fd and asked there; none is duplicated. A connection is therefore asked once more when a
call of it ends, and only what comes after its last call is lost: the goodbye, some 100 bytes.
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
    """Counts the accepted connections of the TCP port `port` of this process, and hangs them up.

    Not thread-safe: call it from one thread.
    """

    descriptors = 0
    """Descriptors that the process had when it was last looked at."""

    def __init__(self, port: int) -> None:
        if not supported():
            raise TransportError("bytes at the socket can be counted on Linux only")
        self._port = port
        self._sockets: dict[str, _Socket] = {}
        self._others: dict[int, int] = {}

    def discover(self) -> set[str]:
        """Look for connections; those that are there now, each as its peer's "ip:port"."""
        known = {found.inode: peer for peer, found in self._sockets.items()}
        others, alive = {}, set()
        handles = _handles()
        self.descriptors = len(handles)
        for handle in handles:
            with contextlib.suppress(OSError):  # closed meanwhile, or not connected
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
        """Bytes (received, sent) so far of each connection, by the peer's "ip:port"."""
        found = {peer: self.read(peer) for peer in self.discover()}
        return {peer: counts for peer, counts in found.items() if counts is not None}

    def read(self, peer: str) -> tuple[int, int] | None:
        """Bytes (received, sent) so far of one connection; None for one that is gone."""
        with contextlib.suppress(OSError, KeyError), self._find(peer).borrowed() as connection:
            return _read(connection)
        return None

    def hang_up(self, peer: str) -> None:
        """Close the connection from `peer` both ways; gRPC then lets go of it."""
        with contextlib.suppress(OSError, KeyError), self._find(peer).borrowed() as connection:
            connection.shutdown(socket.SHUT_RDWR)

    def _find(self, peer: str) -> "_Socket":
        if peer not in self._sockets:
            self.discover()
        return self._sockets[peer]

    def _adopt(self, found: "_Socket") -> str | None:
        """The peer of a connection of ours; empty for another's, None while it is not connected."""
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
    """A descriptor that is somebody else's, and what it was when it was found."""

    inode: int
    handle: int

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[socket.socket]:
        """The socket; raises `OSError` if the descriptor is another's by now."""
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
    """Descriptors of this process; if none is free for looking them up, each number is tried."""
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


def _read(connection: socket.socket) -> tuple[int, int]:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < _LENGTH:
        raise TransportError("this kernel's TCP_INFO has no byte counts; Linux 4.1 or newer does")
    acked, received = struct.unpack_from("=QQ", info, _OFFSET)
    return received, acked
