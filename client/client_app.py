"""The client's work as a Flower ClientApp; the same under every engine.

`Context.node_config` holds what the owner chose (`fedmore.client.owner.node_config`). Every task
and every answer passes the contract (`fedmore.client.egress.policy`), under every engine.
"""

from collections.abc import Callable, Sequence

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedmore.client.egress.policy import EgressPolicy
from fedmore.client.egress.schema import EPOCH_DECIMALS, LOSS_DECIMALS
from fedmore.client.ingress.weights import check_change
from fedmore.client.owner.node_config import Node
from fedmore.client.state.memory import Embedding, Remembered
from fedmore.client.state.reading_position import Reading
from fedmore.client.training import component as components
from fedmore.client.training import progress
from fedmore.client.training.batches import Drawn, holdout, training_windows
from fedmore.client.training.checkpoint import Checkpoints, key_of_task
from fedmore.client.training.embedding import noised_mean
from fedmore.client.training.expert import Schedule, Trained, train
from fedmore.client.training.router import routed
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import Base
from fedmore.experts.factors import Factors
from fedmore.experts.low_rank_linear import combine
from fedmore.experts.spec import TargetModule
from fedmore.experts.text.passages import Passage, passages
from fedmore.kernels.determinism import one_thread
from fedmore.strategies.embedding_stage.strategy import (
    EmbedTask,
    embedding_content,
    read_embed_task,
)
from fedmore.strategies.expert_stage.aggregate_mirror import fingerprint, received
from fedmore.strategies.members import Member, hello
from fedmore.strategies.tasks.train import (
    TrainTask,
    read_task,
    update_content,
)

EMBEDDED = "router/1"
"""The one round of a stage that collects domain embeddings."""


def contract_of(context: Context) -> EgressPolicy:
    """What may leave this node."""
    return EgressPolicy(Node.of(context), context.node_id)


def guarded(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """A Flower mod: raises `EgressError` for a task or answer that the contract does not know."""
    contract = contract_of(context)
    contract.check_task(message)
    reply = call_next(message, context)
    contract.check_reply(message, reply)
    return reply


app = ClientApp(mods=[guarded])


def handle(message: Message, context: Context) -> Message:
    """Do one task and return its answer."""
    return app(message, context)


@app.query("hello")
def _hello(message: Message, context: Context) -> Message:
    node = Node.of(context)
    size = sum(len(text.encode()) for text in node.documents())
    known = node.memory(context.node_id).entries()
    counts = [entry.updates for entry in known.values()]
    marks = [fingerprint(entry.mirror) for entry in known.values()]
    member = Member(node.name, node.kind, node.target, node.rank, size, list(known), counts, marks)
    return Message(hello(member), reply_to=message)


@app.train()
def _train(message: Message, context: Context) -> Message:
    contract, task = contract_of(context), read_task(message.content)
    memory = contract.node.memory(context.node_id)
    entry = memory.read(task.expert)
    key = key_of_task(task, message.content)
    if entry is None or entry.task != key:
        contract.claim(f"{task.stage}/{task.round}", key)
        checkpoints = Checkpoints(memory.checkpoint(task.expert))
        entry = _work(message.content, contract, task, entry, key, checkpoints)
        memory.write(task.expert, entry)
        checkpoints.remove()
    return Message(update_content(entry.answer, task.codec, entry.metrics), reply_to=message)


def _work(
    content: RecordDict,
    contract: EgressPolicy,
    task: TrainTask,
    entry: Remembered | None,
    key: str,
    checkpoints: Checkpoints,
) -> Remembered:
    spec = task.spec(contract.node.name)
    sites = contract.sites(task)
    initial = low_rank.initial(spec, sites, task.seed)
    aggregate = received(content, sites, entry.mirror if entry else {})
    if aggregate is not None:
        held_out, what = holdout(contract, task.seed), f"the aggregate of {task.expert}"
        check_change(contract.node.load(), aggregate, held_out, contract.node.rules, what)
    if task.round_start == "aggregate":
        own = components.find_at(aggregate, task, entry, initial)
    else:
        own = components.find(task, entry, initial)
    # The aggregate has its own component in it: that is taken out where it is trained.
    taken = (own.held, -spec.scale)
    frozen = None if aggregate is None else combine([(aggregate, 1.0), taken])
    read = entry.reading_at(task.updates) if entry else Reading()
    text = training_windows(contract, task, read)
    trained = _fit(contract, task, text, sites, own.start, frozen, spec.scale, checkpoints)
    moved = components.move(task, trained.factors, own, sites)
    after = moved.component
    metrics = _metrics(trained, moved, text)
    mirror = aggregate if aggregate and task.mirror else {}
    before = own.held, own.beside
    return Remembered(
        after.held, after.beside, task.updates + 1, key, moved.data, metrics, mirror, before,
        text.reading, read,
    )  # fmt: skip


def _fit(
    contract: EgressPolicy,
    task: TrainTask,
    text: Drawn,
    sites: tuple[TargetModule, ...],
    start: Factors,
    frozen: Factors | None,
    scale: float,
    checkpoints: Checkpoints,
) -> Trained:
    base = contract.node.load()
    schedule = Schedule(
        task.steps, task.batch_size, task.learning_rate, task.round, task.rounds, task.warms_up
    )
    seed = low_rank.seed_of(contract.node.name, task.stage, task.round, task.seed)
    return train(
        base.model, sites, start, frozen, scale, text.windows, schedule, progress.report,
        checkpoints, base.fingerprint, task.weight_bits, seed,
    )  # fmt: skip


def _metrics(trained: Trained, moved: components.Moved, text: Drawn) -> dict[str, float | int]:
    return {
        "loss": round(trained.loss, LOSS_DECIMALS),
        "tokens": trained.tokens,
        "tokens_per_s": float(round(trained.tokens_per_s)),
        "documents": text.documents,
        "epochs": round(text.reading.epochs, EPOCH_DECIMALS),
        "numbers": low_rank.num_parameters(trained.factors),
        "payload_bytes": len(moved.data),
    }


@app.train("route")
def _route(message: Message, context: Context) -> Message:
    return Message(routed(message.content, contract_of(context)), reply_to=message)


@app.train("embed")
def _embed(message: Message, context: Context) -> Message:
    contract, task = contract_of(context), read_embed_task(message.content)
    memory = contract.node.given
    key, given = key_of_task(task, message.content), memory.embedding()
    contract.answered.check(EMBEDDED, key)
    if given is None:
        contract.claim(EMBEDDED, key)
        given = _embedding(contract, task)
        memory.give(given)
    metrics = {"documents": given.documents, "tokens": given.tokens}
    return Message(embedding_content(given.mean, metrics), reply_to=message)


def _embedding(contract: EgressPolicy, task: EmbedTask) -> Embedding:
    node, base = contract.node, contract.node.load()
    seed = node.seed("embedding", task.seed)
    found = passages(node.documents(), base.text, task.documents, task.tokens, seed)
    tokens = sum(len(passage.ids) for passage in found)
    contract.check_embedded(tokens, len(found))
    means_PD, rows_VD = passage_means(base, found), base.model.get_input_embeddings().weight
    noise = node.seed("embedding noise", task.seed)
    mean_D, _ = noised_mean(means_PD, rows_VD.cpu(), node.rules, noise)
    asked = (task.documents, task.tokens, task.seed)
    return Embedding(asked, mean_D, len({passage.number for passage in found}), tokens)


def passage_means(base: Base, found: Sequence[Passage]) -> Tensor:
    """Mean input embedding [P, D] of every passage, float64, on the CPU."""
    table, device = base.model.get_input_embeddings(), base.model.device
    with one_thread():
        rows = [table(torch.tensor(each.ids, device=device)).double().mean(0) for each in found]
        return torch.stack(rows).cpu()
