"""What a training task says and what its answer holds: the contract of what may leave a client.

A task carries the stage's settings. If an expert has several owners it also carries the aggregate,
or what moves the client's mirror of it (`fedmore.strategies.expert_stage.aggregate_mirror`). The
answer carries one array and scalar metrics. The array is the encoded change of the client's own
factors, or the factors if they are trained as weights of few bits.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedmore.experts import factors as low_rank
from fedmore.experts.errors import WireError
from fedmore.experts.factors import Factors
from fedmore.experts.spec import ExpertSpec, Scaling, TargetModule
from fedmore.strategies.compression.codec import codecs_of, decode, encode
from fedmore.strategies.compression.policy import WEIGHT_TAGS
from fedmore.strategies.settings import STRICT, patterned
from fedmore.strategies.tasks.base import Request, Work, arrays_in, read_settings

TRAIN = "train"
EMBED = "train.embed"

STYPE = "fedmore."

METRICS = ("loss", "tokens", "tokens_per_s", "documents", "epochs", "numbers", "payload_bytes")
"""What a training answer says beside its one array.

`documents` are those that this training read, `epochs` how often the text has been read so far.
"""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TrainTask(Work):
    """Settings of one client's part in one round of a stage that trains experts or adapters.

    `aggregate_ranks` gives the rank of every site of the aggregate, if one is sent (`WHOLE` for a
    full-size one). `mirror` is its mark if the client is to keep it as its mirror, or 0. With
    `weight_bits` the factors are trained as weights of so many bits, and the answer holds them
    whole, in the codec of such weights.
    `ranks` is the pattern of the owner's ranks (`fedmore.experts.ranks`), empty if all are `rank`.
    With `nested_ranks` every step trains a prefix of the directions.
    """

    expert: str
    kind: Literal["expert", "adapter"]
    target: str
    rank: int
    first_layers: int
    last_layers: int
    aggregate_ranks: tuple[int, ...] = ()
    mirror: int = 0
    weight_bits: Literal[0, 1, 2, 4] = 0
    rank_scaling: Scaling = "constant"
    warm_up: Literal["once", "every_round"] = "every_round"
    round_start: Literal["own", "aggregate"] = "own"
    ranks: str = ""
    nested_ranks: bool = False

    def __post_init__(self) -> None:
        """Raise `ValueError` for a wrong pattern, or a codec that is not for what travels."""
        patterned(self.rank, self.ranks)
        if self.weight_bits and self.codec != WEIGHT_TAGS[self.weight_bits]:
            raise ValueError(f"weights of {self.weight_bits} bits do not travel as {self.codec}")
        if not self.weight_bits and self.codec in WEIGHT_TAGS.values():
            raise ValueError(f"{self.codec} is for weights that are trained as bits")

    def spec(self, client: str) -> ExpertSpec:
        """The share of the expert that `client` trains."""
        name = f"{self.expert}/{client}"
        first, last = self.first_layers, self.last_layers
        return ExpertSpec(
            name, self.kind, self.target, self.rank, first, last, self.rank_scaling, self.ranks
        )

    @property
    def warms_up(self) -> bool:
        """Whether the learning rate warms up in this round."""
        return self.warm_up == "every_round" or self.updates == 0


_TASK = TypeAdapter(TrainTask)


def train_content(
    task: TrainTask,
    sites: Sequence[TargetModule],
    codec: str,
    aggregate: Factors | None,
    move: bytes | None = None,
) -> RecordDict:
    """The content of a training message.

    `aggregate` is sent, with `codec`, unless the client has all of it in its own factors. With a
    `move` that is sent in its place; the client gets the aggregate by adding it to its mirror.
    Nothing that a client lost is sent back: what it begins from is not the coordinator's to choose.
    """
    if aggregate is None:
        return content_of(task, (), {})
    ranks = [low_rank.ranks(aggregate)[site.path] for site in sites]
    if move is not None:
        return content_of(task, ranks, {"move": _array(move, codec)})
    return content_of(task, ranks, {"aggregate": pack_change(codec, aggregate, sites)})


def content_of(task: TrainTask, ranks: Sequence[int], arrays: Mapping[str, Array]) -> RecordDict:
    """The content of a training message with `arrays` of an aggregate of these ranks.

    One array may be in the messages to all owners of an expert, so it is encoded and held once.
    """
    config: Any = asdict(task)
    for later in ("ranks", "nested_ranks"):
        if not config[later]:
            del config[later]  # as earlier versions say it
    config["aggregate_ranks"] = list(ranks)
    return RecordDict({"task": ConfigRecord(config), "state": ArrayRecord(dict(arrays))})


def read_task(content: RecordDict) -> TrainTask:
    """The settings in a training message; raises `WireError` when they are not a `TrainTask`."""
    return read_settings(content, _TASK, "a training task")


class TrainRequest(Request[TrainTask]):
    """A training task, and the aggregate that it brings or what moves the client's mirror of it."""

    def aggregate(self, sites: Sequence[TargetModule]) -> Factors | None:
        """The aggregate, None if there is none; raises `WireError`."""
        return self._shared("aggregate", sites)

    def move(self, sites: Sequence[TargetModule]) -> Factors | None:
        """What the mirror is moved by, None for nothing; raises `WireError`."""
        return self._shared("move", sites)

    def _shared(self, name: str, sites: Sequence[TargetModule]) -> Factors | None:
        if not self.task.aggregate_ranks:
            return None
        ranks = _ranks_by_path(self.task.aggregate_ranks, sites)
        if name not in self.arrays:
            return None
        return unpack_change(self.arrays[name], sites, ranks)


def _ranks_by_path(listed: Sequence[int], sites: Sequence[TargetModule]) -> dict[str, int]:
    """The rank of an aggregate in every matrix; raises `WireError` for what it cannot have."""
    if len(listed) != len(sites):
        raise WireError(f"the aggregate has {len(listed)} ranks for {len(sites)} matrices")
    if wrong := [rank for rank in listed if rank < 0 and rank != low_rank.WHOLE]:
        raise WireError(f"the aggregate has a rank of {wrong[0]}")
    for site, rank in zip(sites, listed, strict=True):
        if rank > min(site.out_features, site.in_features):
            raise WireError(
                f"the aggregate has a rank of {rank} in {site.path}, above its full one"
            )
    return {site.path: rank for site, rank in zip(sites, listed, strict=True)}


def read_train_request(content: RecordDict) -> TrainRequest:
    """A training message as a value; raises `WireError` if it is not one, or brings more."""
    arrays = arrays_in(content, ("aggregate", "move"), "a training task")
    return TrainRequest(read_task(content), arrays)


def update_content(data: bytes, codec: str, metrics: Mapping[str, float | int]) -> RecordDict:
    """The answer to a training task."""
    array = _array(data, codec)
    return RecordDict(
        {"update": ArrayRecord({"change": array}), "metrics": MetricRecord(dict(metrics))}
    )


def read_update(
    content: RecordDict, sites: Sequence[TargetModule], ranks: int | Mapping[str, int], codec: str
) -> Factors:
    """The change of factors in an answer; raises `WireError` unless it is just what was asked.

    `ranks` is that of every matrix, or one by module path.
    """
    record = content.array_records.get("update", ArrayRecord())
    if list(record) != ["change"]:
        raise WireError(f"the update holds {list(record)}, not one array named change")
    if record["change"].stype != STYPE + codec:
        raise WireError(f"the update is {record['change'].stype}, the task asked for {codec}")
    if isinstance(ranks, int):
        ranks = {site.path: ranks for site in sites}
    return unpack_change(record["change"], sites, ranks)


def read_metrics(content: RecordDict, names: Collection[str]) -> dict[str, float | int]:
    """The metrics in an answer; raises `WireError` unless they are finite and named so."""
    record = content.metric_records.get("metrics", MetricRecord())
    if set(record) != set(names):
        raise WireError(f"the metrics are {sorted(record)}, not {sorted(names)}")
    metrics: dict[str, float | int] = {}
    for name, value in record.items():
        if isinstance(value, list) or not math.isfinite(value):
            raise WireError(f"the metric {name} is {value}, not a finite number")
        metrics[name] = value
    return metrics


def pack_change(codec: str, change: Factors, sites: Sequence[TargetModule]) -> Array:
    """The factors of all sites as one array."""
    tensors = low_rank.tensors(change, sites)
    return pack(codec, tensors, low_rank.roles(sites, low_rank.ranks(change)))


def unpack_change(array: Array, sites: Sequence[TargetModule], ranks: Mapping[str, int]) -> Factors:
    """The inverse of `pack_change`; raises `WireError`."""
    tensors = unpack(array, low_rank.shapes(sites, ranks), low_rank.roles(sites, ranks))
    return low_rank.from_tensors(tensors, sites, ranks)


def pack(codec: str, tensors: Sequence[Tensor], roles: Sequence[str] = ()) -> Array:
    """Tensors as one Flower array whose `stype` names the codec; `roles` as in `codecs_of`."""
    codecs = codecs_of(codec, [tuple(tensor.shape) for tensor in tensors], roles)
    return _array(encode(codecs, tensors), codec)


def unpack(
    array: Array, shapes: Sequence[Sequence[int]], roles: Sequence[str] = ()
) -> list[Tensor]:
    """The inverse of `pack`; raises `WireError`."""
    data = array.data
    if tuple(array.shape) != (len(data),):
        raise WireError(f"an array of {len(data)} bytes says that it has the shape {array.shape}")
    return decode(codecs_of(array.stype.removeprefix(STYPE), shapes, roles), data, shapes)


def _array(data: bytes, codec: str) -> Array:
    return Array(dtype="uint8", shape=(len(data),), stype=STYPE + codec, data=data)
