"""The work of a training task: an expert or adapter trained on the owner's text."""

from flwr.app import RecordDict

from fedmore.client.egress.expert_rules import RULES
from fedmore.client.egress.schema import EPOCH_DECIMALS, LOSS_DECIMALS
from fedmore.client.ingress.weights import check_change
from fedmore.client.owner.node_config import Node
from fedmore.client.state.memory import Remembered
from fedmore.client.state.reading_position import Reading
from fedmore.client.training import component as components
from fedmore.client.training import progress
from fedmore.client.training.batches import Drawn, holdout, training_windows
from fedmore.client.training.checkpoint import Checkpoints, key_of_task
from fedmore.client.training.expert import Schedule, Trained, train
from fedmore.experts import factors as low_rank
from fedmore.experts.factors import Factors
from fedmore.experts.low_rank_linear import combine
from fedmore.experts.spec import Scale, TargetModule, times
from fedmore.strategies.expert_stage.aggregate_mirror import received
from fedmore.strategies.tasks.train import TrainRequest, TrainTask, update_content


def train_answer(request: TrainRequest, node: Node) -> RecordDict:
    """The answer to a training task; the same task again gives the same bytes."""
    task, memory, key = request.task, node.memory, key_of_task(request)
    entry = memory.read(task.expert)
    if entry is None or entry.task != key:
        node.claim(f"{task.stage}/{task.round}", key)
        checkpoints = Checkpoints(memory.checkpoint(task.expert))
        entry = _work(request, node, entry, key, checkpoints)
        memory.write(task.expert, entry)
        checkpoints.remove()
    return update_content(entry.answer, task.codec, entry.metrics)


def _work(
    request: TrainRequest,
    node: Node,
    entry: Remembered | None,
    key: str,
    checkpoints: Checkpoints,
) -> Remembered:
    task = request.task
    spec = task.spec(node.name)
    sites = spec.sites(node.shapes)
    scale = spec.scales(sites)
    initial = low_rank.initial(spec, sites, task.seed)
    aggregate = received(request, sites, entry.mirror if entry else {})
    if aggregate is not None:
        held_out, what = holdout(node, task.seed), f"the aggregate of {task.expert}"
        check_change(node.load(), aggregate, held_out, node.rules, what)
    if task.round_start == "aggregate":
        own = components.find_at(aggregate, task, entry, initial, scale)
    else:
        own = components.find(task, entry, initial)
    # The aggregate has its own component in it: that is taken out where it is trained.
    taken = (own.held, times(scale, -1.0))
    frozen = None if aggregate is None else combine([(aggregate, 1.0), taken])
    read = entry.reading_at(task.updates) if entry else Reading()
    text = training_windows(node, task, read, RULES.tokens_needed(node, task))
    trained = _fit(node, task, text, sites, own.start, frozen, scale, checkpoints)
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
    node: Node,
    task: TrainTask,
    text: Drawn,
    sites: tuple[TargetModule, ...],
    start: Factors,
    frozen: Factors | None,
    scale: Scale,
    checkpoints: Checkpoints,
) -> Trained:
    base = node.load()
    schedule = Schedule(
        task.steps, task.batch_size, task.learning_rate, task.round, task.rounds, task.warms_up
    )
    seed = low_rank.seed_of(node.name, task.stage, task.round, task.seed)
    return train(
        base.model, sites, start, frozen, scale, text.windows, schedule, progress.report,
        checkpoints, base.fingerprint, task.weight_bits, seed, task.nested_ranks, node.saving,
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
