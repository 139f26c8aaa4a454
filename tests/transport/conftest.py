"""A federation on loopback: real server, TLS, registry and store; clients in threads."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from flwr.app import Message, RecordDict
from running import eventually

from fedmore.client.identity.enrolment import Identity, Invite, enrol
from fedmore.client.session.runner import Session
from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.config.sections import BaseSection, FederationSection, ServerSection
from fedmore.coordinator.pki.certificates import (
    KeyPair,
    Role,
    make_ca,
    make_pair,
    make_server_certificate,
)
from fedmore.coordinator.pki.tls_files import Tls
from fedmore.coordinator.rpc.operator_service import OperatorApi
from fedmore.coordinator.rpc.server import Server, serve
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.journal import Journal
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.strategies.events import Event

T = TypeVar("T")
Handler = Callable[[Message], Message]


class Running(threading.Thread):
    """A session in a thread of its own."""

    def __init__(self, identity: Identity, handler: Handler, **settings: Any) -> None:
        super().__init__(daemon=True)
        self.identity = identity
        self.statuses: list[str] = []
        self.session = Session(identity, on_status=self.statuses.append, **settings)
        self.finished: bool | None = None
        self.error: BaseException | None = None
        self._handler = handler
        self.start()

    def run(self) -> None:
        try:
            self.finished = self.session.run(self._handler)
        except BaseException as error:
            self.error = error

    def end(self, within_s: float = 10.0) -> None:
        self.join(within_s)
        assert not self.is_alive(), "the session did not end"


@dataclass
class Federation:
    """Everything of one federation, in one process."""

    directory: Path
    config: FederationConfig
    info: FederationInfo
    ca: KeyPair
    tls: Tls | None
    registry: Registry
    store: Store
    queue: TaskQueue = field(default_factory=TaskQueue)
    journal: Journal = field(init=False)
    events: list[Event] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    office: OperatorApi | None = None
    news: pb.News | None = None
    heartbeat_s: float = 0.1
    heartbeat_timeout_s: float = 30.0
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(self.registry.database, self.store, self.registry.digests)

    def serve(self, port: int = 0) -> Server:
        times = {"heartbeat_s": self.heartbeat_s, "heartbeat_timeout_s": self.heartbeat_timeout_s}
        server = ServerSection("127.0.0.1", port, "127.0.0.1", **times)
        self.config = FederationConfig(self.config.federation, self.config.base, server)
        self.server = serve(
            self.registry,
            self.journal,
            self.queue,
            self.config,
            self.info,
            self.events.append,
            tls=self.tls,
            insecure=self.tls is None,
            office=self.office,
            news=lambda: self.news,
        )
        return self.server

    @property
    def grid(self) -> TaskGrid:
        return TaskGrid(self.queue, self.journal)

    def invite(self, name: str) -> Invite:
        expires = datetime.now(UTC) + timedelta(days=1)
        pair = make_pair(self.ca, Role.INVITE, name, expires)
        return Invite(
            federation=self.info.name,
            name=name,
            address=f"127.0.0.1:{self.server.port}",
            ca=self.ca.certificate.decode() if self.tls else None,
            certificate=pair.certificate.decode() if self.tls else None,
            key=pair.key.decode() if self.tls else None,
            token=self.registry.invite(name),
            expires=expires.isoformat(),
        )

    def enrol(self, name: str, kind: str = "expert", target: str = "legal") -> Identity:
        invite, state = self.invite(name), self.directory / name
        insecure = self.tls is None
        return enrol(invite, state, kind=kind, target=target, rank=4, insecure=insecure)

    def ask(self, node_id: int, **changes: str) -> str:
        """An open task for a node, whether it is here or not: its id."""
        grid = self.grid  # before a message can be made
        if node_id not in self.queue.nodes():
            self.queue.expect([node_id])
        message = Message(RecordDict(), node_id, "train", **({"group_id": "experts/1"} | changes))
        [task_id] = grid.push_messages([message])
        return task_id

    def join(self, name: str, handler: Handler, *, patience_s: float = 20.0) -> Running:
        return self.start(self.enrol(name), handler, patience_s=patience_s)

    def start(self, identity: Identity, handler: Handler, *, patience_s: float = 20.0) -> Running:
        before = len(self.queue.nodes())
        running = self.begin(identity, handler, patience_s=patience_s)
        eventually(lambda: len(self.queue.nodes()) > before or not running.is_alive())
        return running

    def begin(self, identity: Identity, handler: Handler, *, patience_s: float = 20.0) -> Running:
        """A session that nobody waits for."""
        running = Running(identity, handler, patience_s=patience_s)
        self.running.append(running)
        return running

    eventually = staticmethod(eventually)

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    def close(self) -> None:
        for running in self.running:
            running.session.stop("the test is over")
        self.server.stop()
        for running in self.running:
            running.end()
        self.registry.close()


@pytest.fixture(scope="session")
def authority() -> Tls:
    ca = make_ca("test")
    return Tls(ca, make_server_certificate(ca, ["127.0.0.1"]))


@pytest.fixture
def federation(tmp_path: Path, authority: Tls) -> Iterator[Federation]:
    made = Federation(
        directory=tmp_path,
        config=FederationConfig(
            FederationSection("test", domains=("legal",), languages=("gl",)), BaseSection("tiny")
        ),
        info=FederationInfo("test", "tiny", fingerprint="f" * 64, seed=7),
        ca=authority.ca,
        tls=authority,
        registry=Registry.open(tmp_path),
        store=Store(tmp_path / "blobs"),
    )
    made.serve()
    yield made
    made.close()
