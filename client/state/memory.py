"""What a client remembers of an expert between rounds and runs: one file per expert."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedmore.client.state.reading_position import Reading
from fedmore.experts.errors import DataError
from fedmore.experts.factors import Factors, from_state, mapped, to_state
from fedmore.protos.system.files import PRIVATE, private_folder, sync_folder

SUFFIX = ".component.safetensors"
EMBEDDING = "embedding.safetensors"
ROUTING = "routing.safetensors"  # no expert's: theirs end in SUFFIX
READ = ("reading", "read_before")


@dataclass(frozen=True)
class Remembered:
    """The mirrored component, what error feedback still owes, and the last answer.

    `task` names the task that the last answer was for, so that doing it again gives the same bytes.
    `mirror` is that of the aggregate (`fedmore.strategies.expert_stage.aggregate_mirror`), empty
    for none. `before` is the component and the residual that it began with, for when it is asked in
    another way: the coordinator has not taken the answer then. `reading` is how far the text was
    read after it, `read_before` how far before it.
    """

    component: Factors
    residual: Factors
    updates: int
    task: str
    answer: bytes
    metrics: Mapping[str, float | int]
    mirror: Factors = field(default_factory=dict)
    before: tuple[Factors, Factors] | None = None
    reading: Reading = field(default_factory=Reading)
    read_before: Reading = field(default_factory=Reading)

    def reading_at(self, updates: int) -> Reading:
        """How far the text was read when the coordinator had `updates` updates."""
        return self.reading if updates >= self.updates else self.read_before


@dataclass(frozen=True)
class Embedding:
    """The one embedding that this client gives, float32 [D].

    `asked` is what was asked for: how many documents, tokens of each, and the seed.
    """

    asked: tuple[int, int, int]
    mean: Tensor
    documents: int
    tokens: int


@dataclass(frozen=True)
class Routing:
    """What error feedback owes of the router of `experts`, and the last answer.

    `task` names the task that the last answer was for, `updates` counts the answers. `reading` is
    how far the text was read after it, `read_before` how far before it.
    """

    residual: dict[str, Tensor]
    experts: tuple[str, ...]
    updates: int
    task: str
    answer: bytes
    metrics: Mapping[str, float | int]
    reading: Reading = field(default_factory=Reading)
    read_before: Reading = field(default_factory=Reading)

    def reading_at(self, updates: int) -> Reading:
        """How far the text was read when the coordinator had `updates` updates."""
        return self.reading if updates >= self.updates else self.read_before


class Memory:
    """Files below `directory`, each replaced atomically."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _file(self, expert: str) -> Path:
        return self.directory / f"{expert}{SUFFIX}"

    def checkpoint(self, expert: str) -> Path:
        """Where `fedmore.client.training.checkpoint` keeps the task in hand."""
        return self.directory / f"{expert}.checkpoint.safetensors"

    def entries(self) -> dict[str, Remembered]:
        """What is remembered of each expert."""
        files = sorted(self.directory.glob(f"*{SUFFIX}"))
        names = [file.name.removesuffix(SUFFIX) for file in files]
        return {name: entry for name in names if (entry := self.read(name))}

    def read(self, expert: str) -> Remembered | None:
        """What is remembered of an expert; None if there is nothing."""
        file = self._file(expert)
        if not file.is_file():
            return None
        with _readable(file):
            tensors, meta = _load(file)
            before = _part(tensors, "before."), _part(tensors, "owed.")
            return Remembered(
                _part(tensors, "component."),
                _part(tensors, "residual."),
                int(meta["updates"]),
                meta["task"],
                tensors["answer"].numpy().tobytes(),
                json.loads(meta["metrics"]),
                mapped(_part(tensors, "mirror."), torch.Tensor.float),
                before if before[0] else None,
                *_readings(meta),
            )

    def write(self, expert: str, entry: Remembered) -> None:
        """Remember; a crash leaves the old file or the new one."""
        parts = {"component": entry.component, "residual": entry.residual}
        if entry.before:
            parts |= {"before": entry.before[0], "owed": entry.before[1]}
        tensors = {f"{p}.{k}": t for p, each in parts.items() for k, t in to_state(each).items()}
        mirror = to_state(entry.mirror).items()
        tensors |= {f"mirror.{k}": t.bfloat16() for k, t in mirror}  # bfloat16's numbers
        # Not in the header, which safetensors limits to 100 MB.
        tensors["answer"] = torch.frombuffer(bytearray(entry.answer), dtype=torch.uint8)
        meta = {
            "updates": str(entry.updates),
            "task": entry.task,
            "metrics": json.dumps(dict(entry.metrics)),
            "reading": entry.reading.dump(),
            "read_before": entry.read_before.dump(),
        }
        save(self._file(expert), tensors, meta)

    def routing(self) -> Routing | None:
        """What is remembered of the router; None if there is nothing."""
        file = self.directory / ROUTING
        if not file.is_file():
            return None
        with _readable(file):
            tensors, meta = _load(file)
            answer = tensors.pop("answer").numpy().tobytes()
            experts, metrics = tuple(json.loads(meta["experts"])), json.loads(meta["metrics"])
            updates = int(meta["updates"])
            residual = {key.removeprefix("residual."): t for key, t in tensors.items()}
            task, readings = meta["task"], _readings(meta)
            return Routing(residual, experts, updates, task, answer, metrics, *readings)

    def keep(self, routing: Routing) -> None:
        """Remember what there is of the router, before it is sent."""
        tensors = {f"residual.{key}": tensor for key, tensor in routing.residual.items()}
        tensors["answer"] = torch.frombuffer(bytearray(routing.answer), dtype=torch.uint8)
        meta = {
            "experts": json.dumps(routing.experts),
            "updates": str(routing.updates),
            "task": routing.task,
            "metrics": json.dumps(dict(routing.metrics)),
            "reading": routing.reading.dump(),
            "read_before": routing.read_before.dump(),
        }
        save(self.directory / ROUTING, tensors, meta)

    def embedding(self) -> Embedding | None:
        """The embedding that was given; None if none was."""
        file = self.directory / EMBEDDING
        if not file.is_file():
            return None
        with _readable(file):
            tensors, meta = _load(file)
            documents, tokens, seed = json.loads(meta["asked"])
            counts = json.loads(meta["counts"])
            return Embedding((documents, tokens, seed), tensors["mean"], *counts)

    def give(self, embedding: Embedding) -> None:
        """Remember the embedding, before it is sent."""
        counts = json.dumps((embedding.documents, embedding.tokens))
        meta = {"asked": json.dumps(embedding.asked), "counts": counts}
        save(self.directory / EMBEDDING, {"mean": embedding.mean}, meta)


def save(
    file: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, str], *, lasting: bool = True
) -> None:
    """Write a safetensors file; a crash leaves the old file or the new one.

    Of the machine too, if it is to be `lasting`; else only of this process.
    """
    private_folder(file.parent)
    temporary = file.with_suffix(".writing")
    save_file(dict(tensors), temporary, dict(meta))
    temporary.chmod(PRIVATE)
    if lasting:
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
    temporary.replace(file)
    if lasting:
        sync_folder(file.parent)


def _readings(meta: Mapping[str, str]) -> tuple[Reading, Reading]:
    """How far the text was read; of files that do not say so, not at all."""
    after, before = (Reading.load(meta[key]) if key in meta else Reading() for key in READ)
    return after, before


def _load(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(file, "pt") as opened:
        meta: dict[str, str] = opened.metadata()
        return {key: opened.get_tensor(key) for key in opened.keys()}, meta  # noqa: SIM118


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # safetensors raises its own type, not exported
        raise DataError(f"{file}: damaged ({error}); remove it to start afresh") from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> Factors:
    return from_state(
        {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    )
