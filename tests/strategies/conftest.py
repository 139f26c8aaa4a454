import random
import zlib
from dataclasses import dataclass, field

import pytest
import torch
from flwr.serverapp import Grid

from fedmore.experts import factors as low_rank
from fedmore.experts.errors import FedmoreError
from fedmore.experts.spec import ExpertSpec
from fedmore.protos.wire.flower_compat import identify, make_failure, make_reply, stamp
from fedmore.strategies.compression.codec import codec_of
from fedmore.strategies.compression.error_feedback import send
from fedmore.strategies.embedding_stage.strategy import embedding_content
from fedmore.strategies.expert_stage.aggregate_mirror import fingerprint, received
from fedmore.strategies.expert_stage.round_start import rotated, start_of
from fedmore.strategies.members import HELLO, Member, hello
from fedmore.strategies.tasks.train import (
    EMBED,
    METRICS,
    TRAIN,
    read_train_request,
    update_content,
)

WIDTH = 5
SHAPES = {
    f"model.layers.{i}.{name}": shape
    for i in range(3)
    for name, shape in {
        "self_attn.q_proj": (12, 12),
        "self_attn.k_proj": (6, 12),
        "self_attn.v_proj": (6, 12),
        "self_attn.o_proj": (12, 12),
        "mlp.gate_proj": (20, 12),
        "mlp.up_proj": (20, 12),
        "mlp.down_proj": (12, 20),
    }.items()
}


@pytest.fixture
def shapes():
    return SHAPES


@pytest.fixture
def random_factors():
    """Call it with sites and a rank."""

    def make(sites, rank, size=1.0):
        return {
            s.path: (
                torch.randn(s.out_features, rank) * size,
                torch.randn(rank, s.in_features) * size,
            )
            for s in sites
        }

    return make


class FakeGrid(Grid):
    """Calls a client for each message; replies come in an order drawn by `seed`, None: reversed."""

    def __init__(self, clients, seed=0):
        identify()
        self.clients = dict(enumerate(clients, 11))
        self.shuffle = list.reverse if seed is None else random.Random(seed).shuffle
        self.sent = []
        self.replies = {}

    def get_node_ids(self):
        return list(self.clients)

    def send_and_receive(self, messages, *, timeout=None):
        replies = [reply for m in messages if (reply := self.deliver(m)) is not None]
        self.shuffle(replies)
        return replies

    def deliver(self, message):
        stamp(message, f"task-{len(self.sent)}")
        self.sent.append(message)
        client = self.clients[message.metadata.dst_node_id]
        try:
            answer = client.answer(message)
        except FedmoreError as error:
            return make_failure(message, f"{type(error).__name__}: {error}")
        return None if answer is None else make_reply(message, answer)

    def tasks(self, message_type=TRAIN):
        """Every message of a type by client name, oldest first."""
        found = {}
        for message in self.sent:
            if message.metadata.message_type == message_type:
                name = self.clients[message.metadata.dst_node_id].member.name
                found.setdefault(name, []).append(message.content)
        return found

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *_, **__):
        raise NotImplementedError

    def push_messages(self, messages):
        for message in messages:
            reply = self.deliver(message)
            if reply is not None:
                self.replies[message.metadata.message_id] = reply
        return [m.metadata.message_id for m in messages]

    def pull_messages(self, message_ids):
        found = [self.replies.pop(key) for key in message_ids if key in self.replies]
        self.shuffle(found)
        return found


@dataclass
class FakeClient:
    """Moves its factors by pseudo-random steps; keeps what a real client keeps.

    `spoil` may replace or change its answers: a function of (message type, answer).
    """

    name: str
    kind: str = "expert"
    target: str = "legal"
    rank: int = 2
    size: int = 100
    spoil: object = None
    component: dict | None = None
    residual: dict | None = None
    updates: int = 0
    mirror: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)
    begun: list = field(default_factory=list)
    ranks: str = ""

    @property
    def member(self):
        known = [self.target] if self.updates else []
        counts = [self.updates] if self.updates else []
        marks = [fingerprint(self.mirror)] if self.updates else []
        who = (self.name, self.kind, self.target, self.rank, self.size)
        return Member(*who, known, counts, marks, self.ranks)

    def forget(self):
        self.component, self.residual, self.updates, self.mirror = None, None, 0, {}

    def answer(self, message):
        kind = message.metadata.message_type
        work = {HELLO: lambda _: hello(self.member), TRAIN: self.train, EMBED: self.embed}[kind]
        answer = work(message.content)
        return self.spoil(kind, answer) if self.spoil else answer

    def train(self, content):
        request = read_train_request(content)
        task = request.task
        spec = ExpertSpec(
            f"{task.expert}/{self.name}", self.kind, self.target, self.rank,
            task.first_layers, task.last_layers, ranks=self.ranks,
        )  # fmt: skip
        sites = spec.sites(SHAPES)
        start = self.component or low_rank.initial(spec, sites, task.seed)
        owed = self.residual or low_rank.zeros(start)
        aggregate = received(request, sites, self.mirror)
        if task.round_start == "aggregate":
            first = low_rank.initial(task.spec(self.name), sites, task.seed)
            start = start_of(aggregate or {}, first, task.spec(self.name).scales(sites))
            owed = rotated(owed, self.component, start) if self.component else low_rank.zeros(start)
            self.begun.append(start)
        self.mirror = aggregate if aggregate and task.mirror else {}
        self.seen.append(aggregate)
        g = torch.Generator().manual_seed(zlib.crc32(f"{self.name}/{task.round}".encode()))
        change = [torch.randn(t.shape, generator=g) * 0.1 for t in low_rank.tensors(start, sites)]
        if task.weight_bits:  # these come whole, and nothing is owed before
            own = low_rank.tensors(low_rank.total(start, owed), sites)
            change = [number + move for number, move in zip(own, change, strict=True)]
            start = owed = low_rank.zeros(start)
        sent = send(codec_of(task.codec), change, low_rank.tensors(owed, sites))
        ranks = low_rank.ranks(start)
        self.component = low_rank.total(start, low_rank.from_tensors(sent.decoded, sites, ranks))
        self.residual = low_rank.from_tensors(sent.residual, sites, ranks)
        self.updates = task.updates + 1
        return update_content(sent.data, task.codec, dict.fromkeys(METRICS, 1))

    def embed(self, _content):
        mean = torch.full((WIDTH,), float(zlib.crc32(self.name.encode()) % 97))
        return embedding_content(mean, {"documents": 3, "tokens": 50})


@pytest.fixture
def fake_grid():
    return FakeGrid


@pytest.fixture
def fake_client():
    return FakeClient


class Log(list):
    """Rounds as `on_round` is told of them."""

    def __call__(self, number, metrics, states):
        self.append((number, metrics, dict(states)))


@pytest.fixture
def new_log():
    return Log


@pytest.fixture
def clients(fake_client):
    """Two owners of legal, of mixed ranks, one of medical, and an adapter."""

    def make():
        return [
            fake_client("b", rank=4, size=300),
            fake_client("a", rank=2, size=100),
            fake_client("m", target="medical", rank=3, size=50),
            fake_client("g", kind="adapter", target="gl", rank=2),
        ]

    return make


@pytest.fixture
def spoiling():
    """Call it for a client's `spoil`: acts on messages of type `when`."""
    return _spoiling


def _spoiling(when, result):
    def spoil(kind, answer):
        if kind != when:
            return answer
        if isinstance(result, Exception):
            raise result
        return result(answer) if callable(result) else result

    return spoil
