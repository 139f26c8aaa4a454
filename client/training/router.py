"""The work of a routing task: the router trained on the owner's text, over frozen experts."""

import copy
import time

import torch
from flwr.app import RecordDict

from fedmore.client.egress.router_rules import RULES
from fedmore.client.egress.schema import EPOCH_DECIMALS, LOSS_DECIMALS
from fedmore.client.ingress.router_reach import check_router
from fedmore.client.ingress.weights import check_change, check_model
from fedmore.client.owner.node_config import Node
from fedmore.client.state.memory import Routing
from fedmore.client.state.reading_position import Reading
from fedmore.client.training import progress
from fedmore.client.training.batches import Drawn, holdout, training_windows
from fedmore.client.training.checkpoint import key_of_task
from fedmore.experts.mixture.model import assemble
from fedmore.experts.router_training.gradient import Report, Trace, train_router
from fedmore.experts.routers.base import Router
from fedmore.strategies.compression.error_feedback import Sent, send
from fedmore.strategies.router_stage.state import Change
from fedmore.strategies.router_stage.tasks import (
    RouteRequest,
    RouteTask,
    change_codecs,
    trained_shapes,
)
from fedmore.strategies.tasks.train import update_content


def routed(request: RouteRequest, node: Node) -> RecordDict:
    """The answer to a routing task; the same task again gives the same bytes."""
    task, memory, key = request.task, node.memory, key_of_task(request)
    entry = memory.routing()
    if entry is None or entry.task != key:
        node.claim(f"{task.stage}/{task.round}", key)
        entry = _work(request, node, entry, key)
        memory.keep(entry)
    return update_content(entry.answer, task.codec, entry.metrics)


def _work(request: RouteRequest, node: Node, entry: Routing | None, key: str) -> Routing:
    task, base, router = request.task, node.load(), request.router()
    check_router(task, router, base.model.get_input_embeddings().weight, node.rules)
    experts = request.experts(node.shapes)
    for name, expert in experts.items():
        check_change(base, expert, None, node.rules, f"the expert {name}")
    owed = _owed(entry, task, router)
    start = moved(router, owed)
    mixture = assemble(base.model, experts, copy.deepcopy(start))
    held_out, what = holdout(node, task.seed), f"the mixture of {', '.join(task.experts)}"
    check_model(base, mixture.model, held_out, node.rules, what)
    read = entry.reading_at(task.updates) if entry else Reading()
    text = training_windows(node, task, read, RULES.tokens_needed(node, task))
    trace = train_router(mixture, text.windows, task.training(node.name), _reporting(task))
    change = difference(mixture.router, start)
    codecs = change_codecs(task.codec, list(trained_shapes(router).values()))
    sent = send(codecs, list(change.values()), list(owed.values()))
    residual = dict(zip(owed, sent.residual, strict=True))
    metrics = _metrics(trace, sent, task, text)
    return Routing(
        residual, task.experts, task.updates + 1, key, sent.data, metrics, text.reading, read
    )


def _owed(entry: Routing | None, task: RouteTask, router: Router) -> Change:
    """What error feedback owes: nothing if the coordinator lacks part of what was sent.

    Nothing is owed either after the router has become one of other experts, or of another kind.
    """
    shapes = trained_shapes(router)
    nothing = {name: torch.zeros(shape) for name, shape in shapes.items()}
    if entry is None or (entry.updates, entry.experts) != (task.updates, task.experts):
        return nothing
    fits = {name: tuple(tensor.shape) for name, tensor in entry.residual.items()} == shapes
    return {name: entry.residual[name] for name in shapes} if fits else nothing


@torch.no_grad()
def moved(router: Router, change: Change) -> Router:
    """A copy of `router`, by `change` further."""
    made = copy.deepcopy(router)
    for name, parameter in made.named_parameters():
        parameter.add_(change[name])
    return made


def difference(new: Router, old: Router) -> Change:
    """``new - old`` of every parameter, on the CPU."""
    before = dict(old.named_parameters())
    return {
        name: parameter.detach().cpu() - before[name].detach().cpu()
        for name, parameter in new.named_parameters()
    }


def _reporting(task: RouteTask) -> Report:
    began, each = time.perf_counter(), task.tokens // task.steps

    def report(step: int, steps: int, loss: float) -> None:
        speed = step * each / (time.perf_counter() - began)
        progress.report(step, steps, loss, speed, step * each)

    return report


def _metrics(trace: Trace, sent: Sent, task: RouteTask, text: Drawn) -> dict[str, float | int]:
    tokens = task.tokens
    return {
        "loss": round(sum(trace.losses) / len(trace.losses), LOSS_DECIMALS),
        "tokens": tokens,
        "tokens_per_s": float(round(tokens / sum(trace.seconds))),
        "documents": text.documents,
        "epochs": round(text.reading.epochs, EPOCH_DECIMALS),
        "numbers": sum(tensor.numel() for tensor in sent.residual),
        "payload_bytes": len(sent.data),
    }
