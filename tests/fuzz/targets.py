"""Every decoder of bytes that come from somebody else or from a disk: `TARGETS`.

Each takes any bytes and either decodes them or raises a class of `fedmore.experts.errors`; anything
else is a finding. `test_decoders.py` drives them with hypothesis, `fuzz_decoders.py` with atheris.
"""

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from google.protobuf.message import DecodeError

from fedmore.client.egress.audit_log import FILE, HEAD, Audit
from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.identity.enrolment import read_identity
from fedmore.client.state.memory import Embedding, Memory, Remembered
from fedmore.client.training.checkpoint import Checkpoints, Position
from fedmore.experts.errors import FedmoreError
from fedmore.experts.spec import TargetModule
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.invite import read_invite
from fedmore.protos.wire.flower_compat import make_reply, make_task
from fedmore.protos.wire.messages import unpack_reply, unpack_task
from fedmore.protos.wire.parse_budget import parse_request
from fedmore.protos.wire.records import dumps, loads, unpack
from fedmore.protos.wire.status import KEY, from_rpc
from fedmore.strategies.compression.codec import CODECS, codecs_of, decode, encode
from fedmore.strategies.embedding_stage.strategy import read_embed_task, read_embedding
from fedmore.strategies.expert_stage.aggregate_mirror import received
from fedmore.strategies.members import member_of
from fedmore.strategies.tasks.train import (
    METRICS,
    read_metrics,
    read_task,
    read_train_request,
    read_update,
    update_content,
)

Target = Callable[[bytes], object]
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
SITES = (
    TargetModule("model.layers.0.mlp.gate_proj", 6, 5),
    TargetModule("model.layers.0.mlp.down_proj", 5, 6),
)
RANKS = {site.path: 2 for site in SITES}
SHAPES = [(2, 5), (6, 2), (2, 6), (5, 2)]
MIRROR = {s.path: (torch.zeros(s.out_features, 2), torch.zeros(2, s.in_features)) for s in SITES}
ODD = [(2, 5), (0, 3), (1, 300)]
TASK = make_task(RecordDict(), task_id="t", node_id=5, message_type="query.hello")


def fetch(digest: str, size: int) -> bytes:
    """A blob, often of another size than it should have."""
    return digest.encode()[: size % 97]


def file_with(name: str, data: bytes) -> Path:
    """A file that holds `data`."""
    (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_bytes(data)
    return FOLDER / name


def records(data: bytes) -> RecordDict:
    """A content, and everything of it that somebody looks at."""
    content = loads(data, fetch)
    for record in content.array_records.values():
        for array in record.values():
            assert isinstance(array.data, bytes)
    return content


def event(data: bytes) -> None:
    """What a caller sends, as the coordinator reads it: measured, then parsed."""
    for kind in (pb.ClientEvent, pb.UploadRequest, pb.EnrolRequest):
        with contextlib.suppress(FedmoreError):
            message, size = parse_request(data, kind)
            assert len(data) <= size
            assert isinstance(message, kind)


def content(data: bytes) -> None:
    """A content by its envelope."""
    unpack(pb.Content.FromString(data), fetch)


def task(data: bytes) -> None:
    """A task, as the client reads it."""
    unpack_task(pb.Task.FromString(data), fetch)


def reply(data: bytes) -> None:
    """A reply, as the coordinator reads it."""
    unpack_reply(pb.Reply.FromString(data), TASK, fetch)


def codec(data: bytes) -> None:
    """Numbers by the codec that the first byte chooses."""
    name = list(CODECS)[(data[0] if data else 0) % len(CODECS)]
    for tensor in decode(CODECS[name], data[1:], ODD):
        assert bool(torch.isfinite(tensor).all())


def each(*readers: Callable[[RecordDict], object]) -> Target:
    """All `readers`, each of which may refuse."""

    def read(data: bytes) -> None:
        found = loads(data, fetch)
        for reader in readers:
            with contextlib.suppress(FedmoreError):
                reader(found)

    return read


update = each(
    lambda c: read_update(c, SITES, RANKS, "sign1"),
    lambda c: read_update(c, SITES, RANKS, "fp32"),
    lambda c: read_metrics(c, METRICS),
)
asked = each(
    read_task,
    read_embed_task,
    lambda c: read_train_request(c).aggregate(SITES),
    lambda c: received(read_train_request(c), SITES, MIRROR),
)
said = each(
    lambda c: read_embedding(c, 4),
    lambda c: member_of(make_reply(TASK, c)).updates_of("e"),
    lambda c: member_of(make_reply(TASK, c)).mirror_of("e"),
)


def memory(data: bytes) -> None:
    """What a client remembers of an expert."""
    file_with("memory/e.component.safetensors", data)
    Memory(FOLDER / "memory").read("e")


def embedding(data: bytes) -> None:
    """The embedding that it gave."""
    file_with("memory/embedding.safetensors", data)
    Memory(FOLDER / "memory").embedding()


def checkpoint(data: bytes) -> None:
    """Where a training stands; never an error."""
    Checkpoints(file_with("checkpoint", data)).read("key")


def audit_lines(data: bytes) -> None:
    """The audit's lines."""
    file_with(f"audit/{FILE}", data)
    (FOLDER / "audit" / HEAD).unlink(missing_ok=True)
    read_ledger(FOLDER / "audit")


def audit_head(data: bytes) -> None:
    """The audit's head, also for writing on."""
    (FOLDER / "head" / FILE).unlink(missing_ok=True)
    file_with(f"head/{HEAD}", data)
    read_ledger(FOLDER / "head").as_json()
    Audit(FOLDER / "head").record("heartbeat", 1)


def invite(data: bytes) -> None:
    """An invite file."""
    read_invite(file_with("invite.json", data)).check_expiry()


def identity(data: bytes) -> None:
    """The file that says who a client is."""
    file_with("state/identity.json", data)
    read_identity(FOLDER / "state")


class PeerFailedError(Exception):
    """What gRPC raises, with a status that the other end made."""

    def __init__(self, text: str) -> None:
        self.text = text

    def trailing_metadata(self) -> list[tuple[str, str]]:
        """The peer's own words."""
        return [(KEY, self.text)]


def error(data: bytes) -> None:
    """An error that the coordinator sent."""
    failed = PeerFailedError(data.decode("utf-8", "replace"))
    assert isinstance(from_rpc(failed, "here"), FedmoreError)  # type: ignore[arg-type]


def policy(data: bytes) -> None:
    """A text that names codecs."""
    codecs_of(data.decode("utf-8", "replace"), SHAPES)


TARGETS: dict[str, Target] = {
    f.__name__: f
    for f in (
        records, event, content, task, reply, codec, policy, memory, embedding, checkpoint,
        audit_lines, audit_head, invite, identity, error,
    )
} | {"update": update, "asked": asked, "said": said}  # fmt: skip


def try_one(name: str, data: bytes) -> None:
    """Any bytes decode or raise the project's error; gRPC itself refuses what is no message."""
    with contextlib.suppress(FedmoreError, DecodeError):
        TARGETS[name](data)


def seeds() -> dict[str, bytes]:
    """A valid input for every target, to start from."""
    tensors = [torch.randn(shape) for shape in SHAPES]
    for each_codec in CODECS.values():  # what they import late is not to be timed as an input
        decode(each_codec, encode(each_codec, tensors), SHAPES)
    packed = encode(CODECS["sign1"], tensors)
    answer = update_content(packed, "sign1", dict.fromkeys(METRICS, 1))
    held, part = Memory(FOLDER / "seed"), {"a": (torch.zeros(2, 1), torch.zeros(1, 2))}
    held.write("e", Remembered(part, {}, 1, "t", b"x", {"loss": 1.0}, part))
    held.give(Embedding((1, 2, 3), torch.zeros(4), 1, 2))
    kept = Checkpoints(held.checkpoint("e"))
    kept.write("key", Position(1, [1.0], {"a": torch.zeros(2)}))
    with Audit(FOLDER / "seed") as log:
        log.record("heartbeat", 3)
        head = (FOLDER / "seed" / HEAD).read_bytes()
    wire = pb.Task(task_id="t", message_type="train", content=pb.Content(
        records=pb.Records.FromString(dumps(answer))))  # fmt: skip
    member = {"name": "a", "kind": "expert", "target": "e", "rank": 2, "size": 9,
              "experts": ["e"], "updates": [1], "mirrors": [7]}  # fmt: skip
    vector = RecordDict({
        "member": ConfigRecord(member), "metrics": MetricRecord({"documents": 1, "tokens": 2}),
        "embedding": ArrayRecord({"mean": Array("uint8", (16,), "fedmore.fp32", bytes(16))}),
    })  # fmt: skip
    return {
        "records": dumps(answer),
        "event": pb.ClientEvent(heartbeat=pb.Heartbeat(tasks=["t"])).SerializeToString(),
        "content": wire.content.SerializeToString(),
        "task": wire.SerializeToString(),
        "reply": pb.Reply(task_id="t", content=wire.content).SerializeToString(),
        "codec": b"\4" + encode(CODECS["sign1"], [torch.randn(shape) for shape in ODD]),
        "policy": b"auto,factor_b=nf4,below=64",
        "update": dumps(answer),
        "asked": dumps(RecordDict({"task": ConfigRecord({"expert": "e", "rank": 2, "steps": 3})})),
        "said": dumps(vector),
        "memory": (FOLDER / "seed/e.component.safetensors").read_bytes(),
        "embedding": (FOLDER / "seed/embedding.safetensors").read_bytes(),
        "checkpoint": held.checkpoint("e").read_bytes(),
        "audit_lines": (FOLDER / "seed" / FILE).read_bytes(),
        "audit_head": head,
        "invite": b'{"federation":"f","name":"a","address":"127.0.0.1:1","ca":null,'
        b'"certificate":null,"key":null,"token":"t","expires":"2030-01-01T00:00Z"}',
        "identity": b'{"federation":"f","name":"a","address":"h:1","ca":null,"certificate":null,'
        b'"token_digest":"t","node_id":1,"kind":"expert","target":"e","rank":2,'
        b'"info":{"name":"f","base":"b"}}',
        "error": f"WireError {quote('it is not so')}".encode(),
    }
