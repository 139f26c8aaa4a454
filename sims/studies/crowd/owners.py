"""Owners of one expert who answer without training, with changes like those of SGD.

With A of an owner drawn by its name and B at zero, the first step of training moves B by
``G A^T``, where G is the gradient of the product. Here owners share a G of falling singular values,
as owners of one domain would, and each adds noise of its own. What counts are rank, size and number
of the changes: the coordinator does with them what it does with any.
"""

import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedmore.experts import factors as low_rank
from fedmore.experts.factors import Factors
from fedmore.experts.spec import Shapes, TargetModule
from fedmore.protos.wire.flower_compat import identify, make_reply, stamp
from fedmore.strategies.compression.codec import codecs_of, encode
from fedmore.strategies.expert_stage.aggregate_mirror import fingerprint, received
from fedmore.strategies.members import HELLO, Member, hello
from fedmore.strategies.tasks.train import METRICS, TrainTask, read_train_request, update_content

EXPERT = "crowd"
DIRECTIONS, NOISE = 64, 0.3


@dataclass
class Owner:
    """One owner: its rank, and what it holds of the expert between rounds."""

    name: str
    rank: int
    size: int = 1000
    updates: int = 0
    mark: int = 0
    sent_bytes: int = 0
    mirror: low_rank.Factors = field(default_factory=dict)

    @property
    def member(self) -> Member:
        """How the owner describes itself."""
        known = [EXPERT] if self.updates else []
        counts, marks = [self.updates][: len(known)], [self.mark][: len(known)]
        return Member(self.name, "expert", EXPERT, self.rank, self.size, known, counts, marks)


@dataclass
class CrowdGrid(Grid):
    """Calls an owner for each message, in this process; `owners_s` is the time that took."""

    owners: list[Owner]
    shapes: Shapes
    owners_s: float = 0.0
    _number: int = 0
    _replies: dict[str, Message] = field(default_factory=dict)
    _gradients: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make this process one that may send messages."""
        identify()

    def get_node_ids(self) -> list[int]:
        """Every owner has a node."""
        return list(range(10, 10 + len(self.owners)))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """All replies."""
        return [self._deliver(message) for message in messages]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """The ids of messages, each of which is answered at once."""
        replies = [self._deliver(message) for message in messages]
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in replies}
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that were not pulled before."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def create_message(self, *_: object, **__: object) -> NoReturn:
        """Strategies make messages themselves."""
        raise NotImplementedError

    def set_run(self, run: object) -> NoReturn:
        """There is one run."""
        raise NotImplementedError

    @property
    def run(self) -> NoReturn:
        """There is one run."""
        raise NotImplementedError

    def _deliver(self, message: Message) -> Message:
        self._number += 1
        stamp(message, f"crowd-{self._number}")
        owner = self.owners[message.metadata.dst_node_id - 10]
        if message.metadata.message_type == HELLO:
            return make_reply(message, hello(owner.member))
        began = time.perf_counter()
        reply = make_reply(message, self._trained(owner, message.content))
        self.owners_s += time.perf_counter() - began
        return reply

    def _trained(self, owner: Owner, content: RecordDict) -> RecordDict:
        request = read_train_request(content)
        task = request.task
        spec = task.spec(owner.name)
        sites = spec.sites(self.shapes)
        aggregate = received(request, sites, owner.mirror)
        owner.mirror = aggregate if aggregate and task.mirror else {}
        owner.mark, owner.updates = fingerprint(owner.mirror), task.updates + 1
        first = low_rank.initial(spec, sites, task.seed)
        change: Factors = {
            site.path: self._move(owner, task, site, first[site.path][-1]) for site in sites
        }
        flat = low_rank.tensors(change, sites)
        data = encode(codecs_of(task.codec, [tuple(tensor.shape) for tensor in flat]), flat)
        owner.sent_bytes += len(data)
        return update_content(data, task.codec, dict.fromkeys(METRICS, 1))

    def _move(
        self, owner: Owner, task: TrainTask, site: TargetModule, a_RI: Tensor
    ) -> tuple[Tensor, Tensor]:
        left, right = self._gradient(site)
        named = f"{owner.name}/{task.round}/{site.path}".encode()
        own = torch.Generator().manual_seed(zlib.crc32(named))
        b_OR = left @ (right @ a_RI.T)
        b_OR = b_OR / b_OR.square().mean().sqrt()
        b_OR = b_OR + NOISE * torch.randn(b_OR.shape, generator=own)
        a_move = NOISE * torch.randn(a_RI.shape, generator=own)
        size = task.learning_rate * task.steps
        return b_OR * size, a_move * size

    def _gradient(self, site: TargetModule) -> tuple[Tensor, Tensor]:
        """Factors of the part of the gradient that all owners share, of falling sizes."""
        if site.path not in self._gradients:
            drawn = torch.Generator().manual_seed(zlib.crc32(site.path.encode()))
            count = min(DIRECTIONS, site.out_features, site.in_features)
            sizes = 1 / torch.arange(1, count + 1)
            left = torch.randn(site.out_features, count, generator=drawn) * sizes
            right = torch.randn(count, site.in_features, generator=drawn)
            self._gradients[site.path] = left, right
        return self._gradients[site.path]


def shapes_of(layers: int, width: int, inner: int) -> Mapping[str, tuple[int, int]]:
    """The feed-forward matrices of a base of this many layers, as [out, in]."""
    found = {}
    for layer in range(layers):
        for name, shape in {
            "gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner),
        }.items():  # fmt: skip
            found[f"model.layers.{layer}.mlp.{name}"] = shape
    return found
