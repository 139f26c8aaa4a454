"""Many clients in one process, connected and idle or all uploading at once.

`python -m fedmore.sims.bench.swarm idle|upload FOLDER FIRST LAST [SIZE]` enrols with the invites of
the clients `c<FIRST>` up to but without `c<LAST>` in FOLDER. It prints `ready`, waits for a line on
its input, works, and prints `done`. Before uploads it waits for a task of each client, prints
`asked`, and waits for another line.
"""

import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from fedmore.client.identity.enrolment import Identity, enrol
from fedmore.client.transport.channel import Link
from fedmore.client.transport.outbox import Outbox
from fedmore.client.transport.retry import persist
from fedmore.experts.errors import TransportError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.invite import read_invite

T = TypeVar("T")
AT_ONCE = 8
"""Clients that enrol and connect at a time; more would wait for each other's handshakes."""
PATIENCE_S = 120.0
"""Seconds for which a client retries a connection, as our client does."""


def main() -> None:
    """Run as the command line says."""
    work, folder, first, last = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5])
    invites = [folder / f"c{index}.json" for index in range(first, last)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        identities = list(pool.map(_enrolled, invites))
    links = [identity.link() for identity in identities]
    if work == "idle":
        _idle(links)
    else:
        _upload(links, identities, int(sys.argv[5]))
    for link in links:
        link.close()


def _enrolled(invite: Path) -> Identity:
    state = invite.with_suffix("")
    read = read_invite(invite)
    return _persist(lambda: enrol(read, state, kind="app", target="", rank=0))


def _idle(links: Sequence[Link]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        clients = list(pool.map(_connected, links))
        _say("ready")
        sys.stdin.readline()
        for _ in pool.map(Idle.leave, clients):
            pass
    _say("done")


def _connected(link: Link) -> "Idle":
    session = secrets.token_hex(8)
    return _persist(lambda: Idle(link, session))


class Idle:
    """A client that only sends heartbeats after its welcome.

    It does not read on after the welcome, since each thread that waits in gRPC wakes up ten times
    per second.
    """

    def __init__(self, link: Link, session: str) -> None:
        self._outbox = Outbox(pb.Hello(session=session))
        self._events = iter(link.connect(self._outbox))
        try:
            self._outbox.beat(next(self._events).welcome.heartbeat_s)
        except TransportError:
            self._outbox.close()
            raise

    def wait_for_task(self) -> None:
        """Wait for a task that asks for an upload."""
        while next(self._events).WhichOneof("event") != "task":
            pass

    def leave(self) -> None:
        """End the stream; raises the error if it had ended with one before."""
        self._outbox.leave("the bench is over")
        for _ in self._events:
            pass


def _upload(links: Sequence[Link], identities: Sequence[Identity], size: int) -> None:
    blobs = [identity.name.encode().ljust(64, b".") * (size // 64) for identity in identities]
    digests = [sha256(blob).hexdigest() for blob in blobs]
    for link in links:
        _persist(link.describe)
    with ThreadPoolExecutor(len(links)) as pool:
        clients = list(pool.map(_connected, links))
        _say("ready")
        sys.stdin.readline()
        for client in clients:
            client.wait_for_task()
        _say("asked")
        sys.stdin.readline()
        sent = [
            pool.submit(link.upload, digest, blob)
            for link, digest, blob in zip(links, digests, blobs, strict=True)
        ]
        for upload in sent:
            upload.result()
        _say("done")
        for _ in pool.map(Idle.leave, clients):
            pass


def _persist(action: Callable[[], T]) -> T:
    return persist(action, PATIENCE_S, threading.Event())


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
