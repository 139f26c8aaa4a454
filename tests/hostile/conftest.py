"""A real server and an honest client, as the tests of the transport have them; and a hostile peer.

The peer speaks gRPC itself: it has a member's certificate and none of our client's manners.
"""

import runpy
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from owners import owner
from victim import TERMS, Victim

from fedmore.client.identity.enrolment import Identity
from fedmore.client.owner.agreement import Agreement
from fedmore.experts.factors import Factors
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import FederationStub
from fedmore.protos.wire.blobs import digest_of
from fedmore.protos.wire.records import dumps
from fedmore.strategies.compression.codec import CODECS, encode
from fedmore.strategies.events import Refused
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.members import HELLO, Member, hello
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import METRICS, read_task, update_content

_TRANSPORT = runpy.run_path(str(Path(__file__).parents[1] / "transport" / "conftest.py"))
authority, federation = _TRANSPORT["authority"], _TRANSPORT["federation"]
eventually = _TRANSPORT["eventually"]

SHAPES = {f"model.layers.0.mlp.{name}_proj": (12, 8) for name in ("gate", "up")}
SHAPES["model.layers.0.mlp.down_proj"] = (8, 12)
STAGE = ExpertStage(rounds=1, steps=4, batch_size=2, sequence_length=32, codec="fp32", timeout_s=20)


class Peer:
    """A member's certificate in the hands of somebody who says what he likes."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        keys = identity.keys
        assert keys is not None
        credentials = grpc.ssl_channel_credentials(
            keys.ca.encode(), keys.key.encode(), keys.certificate.encode()
        )
        # Nothing of what our client limits.
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.secure_channel(identity.address, credentials, options)
        self.stub: Any = FederationStub(self.channel)
        self._said: SimpleQueue[pb.ClientEvent | None] = SimpleQueue()
        self._heard: SimpleQueue[pb.ServerEvent | grpc.RpcError] = SimpleQueue()

    def connect(self, *, session: str = "evil", **options: Any) -> "Peer":
        """Open the stream and wait for the welcome."""
        self.say(hello=pb.Hello(session=session, fingerprint="f" * 64))
        call = self.stub.Connect(iter(self._said.get, None), **options)
        threading.Thread(target=self._listen, args=(call,), daemon=True).start()
        self.hear("welcome")
        return self

    def _listen(self, call: Any) -> None:
        try:
            for event in call:
                self._heard.put(event)
        except grpc.RpcError as error:
            self._heard.put(error)

    def say(self, **event: Any) -> None:
        """Send an event."""
        self._said.put(pb.ClientEvent(**event))

    def hear(self, kind: str, within_s: float = 10.0) -> Any:
        """The next event of this kind; or the `RpcError` that the stream ended with."""
        while True:
            event = self._heard.get(timeout=within_s)
            if isinstance(event, grpc.RpcError):
                assert kind == "error", event
                return event
            if event.WhichOneof("event") == kind:
                return getattr(event, kind)

    def task(self, message_type: str = "") -> pb.Task:
        """The next task (of a type)."""
        while True:
            task = self.hear("task")
            if message_type in ("", task.message_type):
                return task

    def reply(self, task_id: str, content: Any) -> None:
        """Answer with a RecordDict."""
        records = pb.Records.FromString(dumps(content))
        self.say(reply=pb.Reply(task_id=task_id, content=pb.Content(records=records)))

    def upload(self, data: bytes, *, digest: str = "", size: int | None = None) -> pb.Receipt:
        """Upload a blob under a digest and size that may be lies."""
        size = len(data) if size is None else size
        blob = pb.Blob(digest=digest or digest_of(data), size=size)
        parts = [pb.UploadRequest(start=pb.UploadStart(blob=blob))]
        parts += [
            pb.UploadRequest(chunk=data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20)
        ]
        receipt: pb.Receipt = self.stub.Upload(iter(parts))
        return receipt

    def introduce(self, **lies: Any) -> None:
        """Answer the question who it is."""
        task = self.task(HELLO)
        said = asdict(member(self.identity)) | lies
        self.reply(task.task_id, RecordDict({"member": ConfigRecord(said)}))

    def close(self) -> None:
        """Hang up."""
        self._said.put(None)
        self.channel.close()


def member(identity: Identity) -> Member:
    """What an honest client says of itself."""
    return Member(identity.name, "expert", identity.target, identity.rank, 100, [], [])


def change(value: float = 1e-4, rank: int = 4) -> Factors:
    """A change of all factors of the tiny expert."""
    return {
        path: (torch.full((out, rank), value), torch.full((rank, inner), value))
        for path, (out, inner) in SHAPES.items()
    }


def make_update(value: float = 1e-4, rank: int = 4, codec: str = "fp32", **metrics: float) -> Any:
    """The answer to a training task."""
    flat = [t for pair in change(value, rank).values() for t in reversed(pair)]
    numbers = dict.fromkeys(METRICS, 1.0) | metrics
    return update_content(encode(CODECS[codec], flat), codec, numbers)


def honest(identity: Identity) -> Any:
    """A handler that answers as our client does, without a model."""

    def handle(message: Message) -> Message:
        if message.metadata.message_type == HELLO:
            return Message(hello(member(identity)), reply_to=message)
        assert read_task(message.content).target == identity.target
        return Message(make_update(), reply_to=message)

    return handle


class Round:
    """A round with an honest client `alice` and a hostile `eve`, run in a thread."""

    def __init__(self, federation: Any, stage: ExpertStage = STAGE) -> None:
        self.federation, self.stage = federation, stage
        self.alice = federation.enrol("alice")
        federation.start(self.alice, honest(self.alice))
        self.eve = Peer(federation.enrol("eve")).connect()
        self.metrics: list[dict[str, Any]] = []
        self.states: dict[str, Any] = {}
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> "Round":
        """Ask everybody."""
        eventually(lambda: len(self.federation.queue.nodes()) == 2)
        self._thread.start()
        return self

    def _run(self) -> None:
        strategy = ExpertStrategy(self.stage, SHAPES, 0, lambda _, m, s: self.metrics.append(m))
        try:
            grid = strategy.patient(self.federation.grid)
            strategy.start(grid, ArrayRecord(), num_rounds=1)
            self.states = dict(strategy.states)
        except BaseException as error:
            self.error = error

    def end(self, within_s: float = 30.0) -> dict[str, Any]:
        """The metrics of the round, which went on without eve."""
        self._thread.join(within_s)
        assert not self._thread.is_alive(), "the round hangs"
        assert self.error is None, self.error
        return self.metrics[0]


@pytest.fixture(scope="session")
def base(tiny_base):
    return tiny_base


@pytest.fixture
def careful(tmp_path, base):
    """An owner at the defaults, who has agreed to a plan."""
    Agreement(tmp_path).accept(TERMS)
    return Victim(tmp_path, base, owner(tmp_path, "a") | {"policy": ""})


@pytest.fixture
def run_session() -> Any:
    """Call it with an identity, a handler and settings of `Session`: the thread it runs in."""
    return _TRANSPORT["Running"]


@pytest.fixture
def update() -> Any:
    """Call it with the value of every number: the answer to a training task."""
    return make_update


@pytest.fixture
def peer(federation: Any) -> Iterator[Any]:
    """Call it with a name: a hostile member, enrolled."""
    made: list[Peer] = []

    def enrol(name: str) -> Peer:
        known = next((p.identity for p in made if p.identity.name == name), None)
        made.append(Peer(known or federation.enrol(name)))
        return made[-1]

    yield enrol
    for each in made:
        each.close()


@pytest.fixture
def told(federation: Any, caplog: pytest.LogCaptureFixture) -> Any:
    """Call it with a name and a call: what the log and the events say was refused to it."""

    def find(name: str, call: str) -> str:
        def lines() -> list[str]:
            begins = f"{name}: refused: {call}: "
            return [m.removeprefix(begins) for m in caplog.messages if m.startswith(begins)]

        def events() -> set[str]:
            return {e.reason for e in federation.of(Refused) if e.name == name}

        eventually(lines)
        eventually(lambda: {f"{call}: {line}" for line in lines()} <= events())
        return "\n".join(lines())

    return find


@pytest.fixture
def round_of(federation: Any, request: pytest.FixtureRequest) -> Iterator[Round]:
    """A round that has begun; its parameters are those of the stage."""
    made = Round(federation, replace(STAGE, **getattr(request, "param", {})))
    yield made.begin()
    made.eve.close()
    with suppress(RuntimeError):
        made._thread.join(10)


__all__ = ["authority", "federation"]
