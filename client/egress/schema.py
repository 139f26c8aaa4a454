"""What may leave this machine, all of it.

Every record, array, number and word of an answer is declared here; sizes follow from what the owner
chose, the base and the task, never from the answer itself.

| asked | answered with |
|---|---|
| `query.hello` | `hello_answer`: the owner's own choices, and how much text there is |
| `train` | `train_answer`: the change of the owner's factors, or these as few bits; seven numbers |
| `train.route` | `route_answer`: the change of the router, and the same seven numbers |
| `train.embed` | `embed_answer`: one mean input embedding, the same for ever, and two numbers |
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmore.client.owner.node_config import Node
from fedmore.experts import factors as low_rank
from fedmore.experts.errors import EgressError
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.spec import TargetModule
from fedmore.protos.wire.payloads import payload_of, size_of
from fedmore.strategies.compression.codec import CODECS, Codec, codecs_of
from fedmore.strategies.router_stage.tasks import RouteTask, change_codecs, trained_shapes
from fedmore.strategies.tasks.base import Work
from fedmore.strategies.tasks.train import STYPE, TrainTask

LOSS_DECIMALS = 4
EPOCH_DECIMALS = 2


@dataclass(frozen=True)
class Packed:
    """An array of `size` bytes (uint8) in the layout of `codec`."""

    codec: str
    size: int

    def fits(self, array: Any) -> bool:
        """Whether `array` is one."""
        kind = (array.dtype, tuple(array.shape), array.stype)
        size = size_of(payload_of(array))
        return kind == ("uint8", (self.size,), STYPE + self.codec) and size == self.size


@dataclass(frozen=True)
class Number:
    """A finite number of at least 0 with `decimals` decimals, or `exactly` one number."""

    exactly: int | None = None
    decimals: int = 0

    def fits(self, value: Any) -> bool:
        """Whether `value` is one."""
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            return False
        known = self.exactly is None or value == self.exactly
        return known and bool(value == round(value, self.decimals))


@dataclass(frozen=True)
class Constant:
    """One of the words that the owner chose, and no other text."""

    exactly: str

    def fits(self, value: Any) -> bool:
        """Whether `value` is it."""
        return bool(value == self.exactly)


@dataclass(frozen=True)
class OptionalItem:
    """A list of one such entry, or none."""

    entry: Constant | Number

    def fits(self, value: Any) -> bool:
        """Whether `value` is one."""
        return isinstance(value, list) and len(value) <= 1 and all(map(self.entry.fits, value))


Field = Packed | Number | Constant | OptionalItem
Fields = Mapping[str, Field]


@dataclass(frozen=True)
class AnswerSchema:
    """Every record of an answer, by its name, and every entry of each."""

    arrays: Mapping[str, Fields] = field(default_factory=dict)
    metrics: Mapping[str, Fields] = field(default_factory=dict)
    config: Mapping[str, Fields] = field(default_factory=dict)

    def check(self, content: RecordDict) -> None:
        """Raise `EgressError` unless `content` is this and nothing more."""
        declared: dict[str, tuple[type, Fields]] = {}
        found: Any = content
        parts: Any = (
            (ArrayRecord, self.arrays),
            (MetricRecord, self.metrics),
            (ConfigRecord, self.config),
        )
        for kind, records in parts:
            declared |= {name: (kind, fields) for name, fields in records.items()}
        _same_names("the answer", content, declared)
        for name, (kind, fields) in declared.items():
            if not isinstance(found[name], kind):
                raise EgressError(f"{name} is not a {kind.__name__}")
            _same_names(name, found[name], fields)
            for key, wanted in fields.items():
                if not wanted.fits(found[name][key]):
                    # The value itself stays: this message goes to the coordinator.
                    raise EgressError(f"{name}/{key} is not {wanted}")


def hello_answer(node: Node) -> AnswerSchema:
    """Who the client is: what the owner chose, bytes of text, what it remembers of its expert."""
    member: Fields = {
        "name": Constant(node.name),
        "kind": Constant(node.kind),
        "target": Constant(node.target),
        "rank": Number(node.rank),
        "size": Number(),
        "experts": OptionalItem(Constant(node.target)),
        "updates": OptionalItem(Number()),
        "mirrors": OptionalItem(Number()),
    }
    if node.ranks:
        member = {**member, "ranks": Constant(node.ranks)}
    return AnswerSchema(config={"member": member})


def train_answer(task: TrainTask, sites: Sequence[TargetModule]) -> AnswerSchema:
    """The encoded change of the factors of `sites` (with `weight_bits` these), and numbers."""
    ranks = low_rank.asked_ranks(task.spec(""), sites)
    shapes = low_rank.shapes(sites, ranks)
    return _update(task, codecs_of(task.codec, shapes, low_rank.roles(sites, ranks)), shapes)


def route_answer(task: RouteTask) -> AnswerSchema:
    """The encoded change of the router's parameters, and numbers about the training."""
    shapes = list(trained_shapes(make_router(task.spec())).values())
    return _update(task, change_codecs(task.codec, shapes), shapes)


def _update(task: Work, codecs: Sequence[Codec], shapes: Sequence[Sequence[int]]) -> AnswerSchema:
    counts = [math.prod(shape) for shape in shapes]
    size = sum(codec.size(count) for codec, count in zip(codecs, counts, strict=True))
    metrics: Fields = {
        "loss": Number(decimals=LOSS_DECIMALS),
        "tokens": Number(task.tokens),
        "tokens_per_s": Number(),
        "documents": Number(),
        "epochs": Number(decimals=EPOCH_DECIMALS),
        "numbers": Number(sum(counts)),
        "payload_bytes": Number(size),
    }
    return AnswerSchema({"update": {"change": Packed(task.codec, size)}}, {"metrics": metrics})


def embed_answer(width: int) -> AnswerSchema:
    """One vector of the base's width at full precision, and of how much text it is the mean."""
    mean = Packed("fp32", CODECS["fp32"].size(width))
    return AnswerSchema(
        {"embedding": {"mean": mean}}, {"metrics": {"documents": Number(), "tokens": Number()}}
    )


def _same_names(where: str, found: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    if set(found) != set(declared):
        raise EgressError(f"{where} holds {len(found)} entries; declared are {', '.join(declared)}")
