"""Faults on a schedule: of connections (`FaultyProxy`), messages (`FaultyStreams`) and the pieces
of blobs (`FaultyBlobs`), which are above TLS: nothing there notices what is corrupt.

Every fault of a schedule happens once, so each exchange gets a chance to end.
"""

import contextlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import strategies as st

from fedmore.client.transport import channel
from fedmore.client.transport.channel import Call, Link
from fedmore.client.transport.outbox import Outbox
from fedmore.client.transport.retry import Backoff
from fedmore.coordinator.rpc.blobs import downloads
from fedmore.coordinator.tasks.journal import Journal
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire import blobs
from fedmore.protos.wire.payloads import Payload

T = TypeVar("T")
CONNECTION_FAULTS = ("cut", "corrupt", "truncate", "half-close", "delay")
MESSAGE_FAULTS = ("drop", "duplicate", "reorder", "delay")
BLOB_FAULTS = (*MESSAGE_FAULTS, "corrupt")
UP, DOWN = "up", "down"
PIECE, BLOB_PIECE = 1 << 14, 1 << 16


@dataclass(frozen=True)
class Fault:
    """What happens to the traffic in one direction once `after` bytes (or messages) have passed."""

    kind: str
    direction: str
    after: int


def connection_faults() -> st.SearchStrategy[list[Fault]]:
    """Schedules for a proxy; the exchange of these tests is some 2 MB each way."""
    after = st.integers(0, 20_000) | st.integers(0, 2_000_000)
    fault = st.builds(Fault, st.sampled_from(CONNECTION_FAULTS), st.sampled_from([UP, DOWN]), after)
    return st.lists(fault, min_size=1, max_size=8)


def message_faults() -> st.SearchStrategy[list[Fault]]:
    """Schedules for streams; an exchange has some 20 messages each way."""
    fault = st.builds(
        Fault, st.sampled_from(MESSAGE_FAULTS), st.sampled_from([UP, DOWN]), st.integers(0, 20)
    )
    return st.lists(fault, min_size=1, max_size=16)


def blob_faults() -> st.SearchStrategy[list[Fault]]:
    """Schedules for blobs, of some 28 pieces each way; a blob is tried three times."""
    kinds, after = st.sampled_from(BLOB_FAULTS), st.integers(0, 27)
    return st.lists(
        st.builds(Fault, kinds, st.sampled_from([UP, DOWN]), after), min_size=1, max_size=2
    )


class Schedule:
    """Faults still to come, by direction; counts what passes on all connections together."""

    def __init__(self, faults: list[Fault]) -> None:
        self._lock = threading.Lock()
        self._passed = {UP: 0, DOWN: 0}
        self._left = {way: [f for f in faults if f.direction == way] for way in (UP, DOWN)}
        for left in self._left.values():
            left.sort(key=lambda fault: -fault.after)
        self.happened: list[Fault] = []

    def next(self, way: str, size: int = 1) -> str | None:
        """The fault for what passes now, if it is time for one."""
        with self._lock:
            self._passed[way] += size
            left = self._left[way]
            if not left or left[-1].after >= self._passed[way]:
                return None
            self.happened.append(left.pop())
            return self.happened[-1].kind


class FaultyProxy:
    """Forwards TCP to `target` on loopback, with the faults of a schedule."""

    def __init__(self, target: int, schedule: Schedule) -> None:
        self._target, self._schedule = target, schedule
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._sockets += [near, far]
            for source, sink, way in ((near, far, UP), (far, near, DOWN)):
                pump = threading.Thread(target=self._pump, args=(source, sink, way))
                self._threads.append(pump)
                pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        silent = False
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE):
                kind = self._schedule.next(way, len(data))
                if kind == "cut":
                    break
                if kind == "truncate":
                    sink.sendall(data[: len(data) // 2])
                    break
                if kind == "corrupt":
                    data = corrupt(data)
                if kind == "delay":
                    time.sleep(0.2)
                if kind == "half-close":
                    sink.shutdown(socket.SHUT_WR)
                    silent = True
                if not silent:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything and wait for it."""
        for end in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for end in (self._listener, *self._sockets):
            end.close()


class FaultyStreams:
    """Both directions of every stream in this process, with the faults of a schedule.

    Hello and Welcome are spared: gRPC delivers the beginning of a stream or none of it.
    """

    def __init__(self, patch: pytest.MonkeyPatch, schedule: Schedule) -> None:
        connect, listen = Link.connect, Call.__iter__

        def faulty_connect(link: Link, events: Outbox) -> Call:
            return connect(link, self.through(events, UP))

        def faulty_listen(call: Call) -> Iterator[pb.ServerEvent]:
            return self.through(listen(call), DOWN)

        self._schedule = schedule
        patch.setattr(Link, "connect", faulty_connect)
        patch.setattr(Call, "__iter__", faulty_listen)

    def through(self, messages: Iterator[T], way: str) -> Iterator[T]:
        """`messages`, but for what the schedule does to those after the first."""
        yield from itertools.islice(messages, 1)
        yield from disturbed(messages, way, self._schedule)


class FaultyBlobs:
    """Uploads and downloads in small pieces, with the faults of a schedule."""

    def __init__(self, patch: pytest.MonkeyPatch, schedule: Schedule) -> None:
        download = Link.download

        def faulty_split(payload: Payload, offset: int) -> Iterator[bytes]:
            return disturbed(blobs.split(payload, offset), UP, schedule)

        def faulty_download(link: Link, digest: str, offset: int) -> Iterator[bytes]:
            return disturbed(download(link, digest, offset), DOWN, schedule)

        patch.setattr(blobs, "CHUNK", BLOB_PIECE)
        patch.setattr(downloads, "CHUNK", BLOB_PIECE)
        patch.setattr(channel, "split", faulty_split)
        patch.setattr(Link, "download", faulty_download)


def disturbed(messages: Iterator[T], way: str, schedule: Schedule) -> Iterator[T]:
    """`messages`, but for what the schedule does to them."""
    held: list[T] = []
    for message in messages:
        kind = schedule.next(way)
        if kind == "drop":
            continue
        if kind == "delay":
            time.sleep(0.1)
        if kind == "reorder":
            held.append(message)
            continue
        yield corrupt(message) if kind == "corrupt" else message
        if kind == "duplicate":
            yield message
        yield from held
        held.clear()
    yield from held


def corrupt(data: T) -> T:
    """Some bytes with one bit of one of them turned."""
    assert isinstance(data, bytes)
    at = len(data) // 3
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


class Faults:
    """What the tests of this folder draw and inject."""

    Fault, Schedule = Fault, Schedule
    Proxy, Streams, Blobs = FaultyProxy, FaultyStreams, FaultyBlobs
    connection, message = staticmethod(connection_faults), staticmethod(message_faults)
    blob = staticmethod(blob_faults)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> type[Faults]:
    monkeypatch.setattr(Backoff, "FIRST_S", 0.02)
    monkeypatch.setattr(Backoff, "LARGEST_S", 0.2)
    # hypothesis minds whoever draws from the global generator while it does
    own = (time.monotonic, random.Random(0).random)
    monkeypatch.setattr(Backoff.__init__, "__defaults__", own)
    return Faults


@pytest.fixture
def hub(federation):
    """A coordinator that keeps a foreign app's tasks on disk, and two members of it."""
    federation.server.stop()
    federation.journal = Journal(
        federation.registry.database, federation.store, federation.registry.digests, group="app"
    )
    federation.serve()
    federation.members = {name: federation.enrol(name) for name in ("ada", "bob")}
    return federation
