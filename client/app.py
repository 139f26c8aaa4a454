"""The client's work as a Flower ClientApp; the same under every engine.

`Context.node_config` holds what the owner chose: name, kind, target, rank, data, base, dtype,
device, quantization, and state (the folder of `fedmore.client.memory`).
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmore.client import progress
from fedmore.client.memory import Memory, Remembered
from fedmore.client.train import Schedule, Trained, train
from fedmore.experts import factors as low_rank
from fedmore.experts.base import Base, load_base, shapes_of
from fedmore.experts.errors import WireError
from fedmore.experts.factors import Factors
from fedmore.experts.lowrank import combine
from fedmore.experts.spec import Site
from fedmore.experts.text import read_documents, sample, tokenize, windows
from fedmore.kernels.determinism import one_thread
from fedmore.strategies.compression.codec import codec_of
from fedmore.strategies.compression.error_feedback import Sent, send
from fedmore.strategies.members import Member, hello
from fedmore.strategies.router import embedding_content, read_embed_task
from fedmore.strategies.tasks import (
    TrainTask,
    read_aggregate,
    read_component,
    read_task,
    update_content,
)

app = ClientApp()


@dataclass(frozen=True)
class Node:
    """What the owner chose for this client."""

    name: str
    kind: Literal["expert", "adapter"]
    target: str
    rank: int
    data: Path
    base: str
    dtype: str
    device: str
    quantization: str
    state: Path

    @classmethod
    def of(cls, context: Context) -> "Node":
        """Read `context.node_config`."""
        config: Any = dict(context.node_config)
        paths = {key: Path(str(config[key])) for key in ("data", "state")}
        return cls(**{key: config[key] for key in cls.__dataclass_fields__} | paths)

    def load(self) -> Base:
        """The base, loaded once a process."""
        return load_base(self.base, self.dtype, self.device, self.quantization)

    def documents(self) -> tuple[str, ...]:
        """The owner's text, read once a process."""
        return _documents(self.data)


@functools.lru_cache
def _documents(path: Path) -> tuple[str, ...]:
    return tuple(read_documents(path))


def handle(message: Message, context: Context) -> Message:
    """Do one task."""
    return app(message, context)


@app.query("hello")
def _hello(message: Message, context: Context) -> Message:
    node = Node.of(context)
    size = sum(len(text.encode()) for text in node.documents())
    updates = _memory(node, context).updates()
    experts, counts = list(updates), list(updates.values())
    member = Member(node.name, node.kind, node.target, node.rank, size, experts, counts)
    return Message(hello(member), reply_to=message)


def _memory(node: Node, context: Context) -> Memory:
    """What this member remembers; its node id keeps two federations of one name apart."""
    return Memory(node.state / f"node-{context.node_id}")


@app.train()
def _train(message: Message, context: Context) -> Message:
    node, task = Node.of(context), read_task(message.content)
    _refuse_others_work(node, task)
    memory = _memory(node, context)
    entry = memory.read(task.expert)
    key = f"{task.stage}/{task.round}/{task.updates}"
    if entry is None or entry.task != key or entry.updates != task.updates + 1:
        entry = _work(message.content, node, task, entry, key)
        memory.write(task.expert, entry)
    return Message(update_content(entry.answer, task.codec, entry.metrics), reply_to=message)


def _refuse_others_work(node: Node, task: TrainTask) -> None:
    asked = (task.kind, task.expert, task.target, task.rank)
    chosen = (node.kind, node.target, node.target, node.rank)
    if asked != chosen:
        raise WireError(f"asked to train {asked}; the owner of this client chose {chosen}")


def _work(
    content: RecordDict, node: Node, task: TrainTask, entry: Remembered | None, key: str
) -> Remembered:
    base = node.load()
    spec = task.spec(node.name)
    sites = spec.sites(shapes_of(base.model))
    start, residual = _start(content, task, sites, entry, low_rank.initial(spec, sites, task.seed))
    aggregate = read_aggregate(content, sites)
    # The model starts at the aggregate: its own component is taken out where it is trained.
    own = (start, -spec.scale)
    frozen = None if aggregate is None else combine([(aggregate, 1.0), own])
    trained = _fit(base, node, task, sites, start, frozen, spec.scale)
    sent = send(
        codec_of(task.codec),
        low_rank.tensors(low_rank.difference(trained.factors, start), sites),
        low_rank.tensors(residual, sites),
    )
    component = low_rank.total(start, low_rank.from_tensors(sent.decoded, sites))
    owed = low_rank.from_tensors(sent.residual, sites)
    metrics = _metrics(trained, sent, component, len(node.documents()))
    return Remembered(component, owed, task.updates + 1, key, sent.data, metrics)


def _start(
    content: RecordDict,
    task: TrainTask,
    sites: tuple[Site, ...],
    entry: Remembered | None,
    initial: Factors,
) -> tuple[Factors, Factors]:
    """Where this round starts and what error feedback owes; raises `WireError` on a lost state."""
    nothing = {path: (b * 0, a * 0) for path, (b, a) in initial.items()}
    returned = read_component(content, sites, task.rank)
    if returned is not None:
        return returned, nothing
    if entry is not None and entry.updates == task.updates:
        return entry.component, entry.residual
    if task.updates == 0:
        return initial, nothing
    known = entry.updates if entry else 0
    raise WireError(f"{task.expert}: this client knows {known} of its {task.updates} updates")


def _fit(
    base: Base,
    node: Node,
    task: TrainTask,
    sites: tuple[Site, ...],
    start: Factors,
    frozen: Factors | None,
    scale: float,
) -> Trained:
    if task.threads:
        torch.set_num_threads(task.threads)
    count, seed = task.steps * task.batch_size, task.seed * 1000 + task.round
    text = windows(node.documents(), base.tokenizer, task.sequence_length, count, seed)
    schedule = Schedule(task.steps, task.batch_size, task.learning_rate, task.round, task.rounds)
    return train(base.model, sites, start, frozen, scale, text, schedule, progress.report)


def _metrics(
    trained: Trained, sent: Sent, component: Factors, documents: int
) -> dict[str, float | int]:
    return {
        "loss": trained.loss,
        "tokens": trained.tokens,
        "tokens_per_s": trained.tokens_per_s,
        "documents": documents,
        "numbers": low_rank.numbers(component),
        "payload_bytes": len(sent.data),
    }


@app.train("embed")
def _embed(message: Message, context: Context) -> Message:
    node, base = Node.of(context), Node.of(context).load()
    task = read_embed_task(message.content)
    texts = sample(node.documents(), task.documents, task.seed)
    rows = [tokenize(base.tokenizer, text)[1 : task.tokens + 1] for text in texts]
    ids = torch.tensor([token for row in rows for token in row], device=base.model.device)
    with one_thread():
        mean_D = base.model.get_input_embeddings()(ids).double().mean(0).float().cpu()
    metrics = {"documents": len(texts), "tokens": len(ids)}
    return Message(embedding_content(mean_D, metrics), reply_to=message)
