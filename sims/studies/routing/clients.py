"""Lets the clients of a finished federation train a router, each on its own text."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from fedmore.client.joining.consent import policy_of
from fedmore.client.owner.policy import dump_policy
from fedmore.client.owner.secret import keep_secret, secret_of
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.base.model import shapes_of
from fedmore.experts.factors import Factors
from fedmore.experts.routers.base import Router
from fedmore.kernels.determinism import one_thread
from fedmore.sims.engines.local import make_handler, node_of
from fedmore.sims.engines.prepare import Prepared
from fedmore.sims.engines.workers import Node, Workers
from fedmore.sims.studies.routing.material import Material
from fedmore.sims.studies.routing.trial import fresh
from fedmore.sims.studies.routing.variants import Size, Variant
from fedmore.strategies.router_stage.state import RouterState
from fedmore.strategies.router_stage.strategy import RoutingSource, RoutingStrategy
from fedmore.strategies.stages.router import RouterStage


def trained_by_clients(
    material: Material, prepared: Prepared, variant: Variant, size: Size, seed: int
) -> tuple[Router, list[float]]:
    """Return the router after the stage, and the mean loss of every round."""
    states: list[RouterState] = []
    losses: list[float] = []

    def on_round(_number: int, metrics: dict[str, Any], state: RouterState) -> None:
        clients = metrics["clients"].values()
        losses.append(sum(client["loss"] for client in clients) / len(clients))
        states.append(state)

    def initial(_experts: Mapping[str, Factors]) -> Router:
        with one_thread():
            return fresh(material, variant)

    source = RoutingSource(shapes_of(material.base.model), lambda: material.experts, initial)
    if variant.samples:
        source = replace(source, num_selections=variant.samples)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # the study prints its own progress
    strategy = RoutingStrategy(stage_of(variant, size), source, seed, on_round)
    queue = TaskQueue()
    with tempfile.TemporaryDirectory(prefix="fedmore-") as state:
        nodes = members(prepared, Path(state))
        handler = make_handler(prepared.config.base)
        with Workers(queue, nodes, handler, lambda _event: None):
            grid = strategy.patient(TaskGrid(queue))
            strategy.start(grid, ArrayRecord(), num_rounds=size.rounds, timeout=3600)
    return states[-1].router(), losses


def stage_of(variant: Variant, size: Size) -> RouterStage:
    """The stage that the clients are asked to train."""
    return RouterStage(
        rounds=size.rounds,
        steps=size.client_steps,
        batch_size=max(2, size.batch // 2),
        sequence_length=size.tokens,
        learning_rate=variant.rate,
    )


def members(prepared: Prepared, state: Path) -> dict[int, Node]:
    """The federation's clients, as if they had returned, with their states below `state`."""
    with open_federation(prepared.directory) as federation:
        ids = {member.name: member.node_id for member in federation.registry.members()}
    nodes = {}
    for client in prepared.scenario.clients:
        keep_secret(state / client.name, secret_of(client.name))
        node = node_of(prepared, client, ids[client.name], state / client.name)
        # The study's stage is in no plan: its owners accept what is inside their bounds.
        rules = replace(policy_of(prepared.policy(client)), consent="bounds", min_steps=1)
        node.context.node_config["policy"] = dump_policy(replace(rules, min_tokens=1))
        nodes[ids[client.name]] = node
    return nodes
