"""Engine `local`: the same two apps in one process over one shared base, without sockets.

It counts payload bytes, without framing. `TaskGrid` sorts replies in the order of the messages,
so no result depends on which client was faster.
"""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Self

from flwr.app import Context, RecordDict
from rich.console import Console

from fedmore.client.hardware.device import choose_device, cores, inspect_machine
from fedmore.client.joining.consent import policy_of
from fedmore.client.owner.agreement import Agreement, check_bounds
from fedmore.client.owner.policy import dump_policy
from fedmore.coordinator.config.sections import BaseSection
from fedmore.coordinator.config.terms import terms_of
from fedmore.coordinator.config.validation import check_plan
from fedmore.coordinator.folder.create import create
from fedmore.coordinator.folder.federation import Federation, open_federation, running_alone
from fedmore.coordinator.monitor.dashboard import Observer
from fedmore.coordinator.monitor.tracker import Tracker, track
from fedmore.coordinator.run import plan_runner
from fedmore.coordinator.run.plan_runner import (
    import_plan,
    noting_failure,
    observer_of,
    tracker_of,
)
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.ranks import chosen
from fedmore.protos.wire.flower_compat import RUN
from fedmore.sims.engines.prepare import Prepared
from fedmore.sims.engines.workers import Handler, Node, Workers
from fedmore.sims.scenarios.scenario import ClientSpec
from fedmore.strategies.events import Event, Joined, Traffic
from fedmore.strategies.stages.base import TrainingStage

ACCOUNT_S = 1.0


def run(prepared: Prepared) -> None:
    """Run the whole plan in this process."""
    made = create(prepared.directory, prepared.config, print)
    prepared = replace(prepared, config=made)
    with open_federation(prepared.directory) as federation, running_alone(prepared.directory):
        check_plan(federation.config)
        tracker, observer = tracker_of(federation), observer_of(federation, Console())
        with noting_failure(federation, tracker), observer:
            run_plan(prepared, federation, observer, tracker)


def run_plan(
    prepared: Prepared, federation: Federation, observer: Observer, tracker: Tracker
) -> None:
    """Enrol and connect the clients, then run the plan as `coordinator start` does."""
    queue = TaskQueue()
    nodes = dict(enrol(prepared, client, federation) for client in prepared.scenario.clients)
    for client in prepared.scenario.clients:
        observer(Joined(client.name, client.kind, client.target, *chosen(client.rank)))
    plan, handler = import_plan(), make_handler(federation.config.base)
    with (
        Listener(federation.registry, observer, tracker) as listener,
        Workers(queue, nodes, handler, listener, threads_of(prepared)),
    ):
        plan_runner.run_plan(federation, TaskGrid(queue), tracker, observer, plan)


def enrol(prepared: Prepared, client: ClientSpec, federation: Federation) -> tuple[int, Node]:
    """Enrol a client as an invite would; returns its node id and its app's context."""
    token = federation.registry.invite(client.name)
    rank, ranks = chosen(client.rank)
    member = federation.registry.enrol(
        token, client.name, client.kind, client.target, rank, ranks=ranks
    )
    state = prepared.folder(client) / "state"
    return member.node_id, node_of(prepared, client, member.node_id, state)


def node_of(prepared: Prepared, client: ClientSpec, node_id: int, state: Path) -> Node:
    """Make a client that is a member already, with its state in the folder `state`."""
    base = prepared.config.base
    agree(prepared, client)
    rank, ranks = chosen(client.rank)
    node_config: dict[str, bool | float | int | str] = {
        "name": client.name,
        "kind": client.kind,
        "target": client.target,
        "rank": rank,
        "ranks": ranks,
        "data": str(prepared.data(client)),
        "base": base.model,
        "dtype": base.dtype,
        "quantization": base.quantization,
        "opener": base.opener,
        "open_windows": base.open_windows,
        "device": device(),
        "state": str(state),
        "policy": dump_policy(policy_of(prepared.policy(client))),
    }
    return Node(client.name, Context(RUN, node_id, node_config, RecordDict(), {}))


def agree(prepared: Prepared, client: ClientSpec) -> None:
    """Agree to the plan in the owner's place, if the policy allows it."""
    terms, rules = terms_of(prepared.config), policy_of(prepared.policy(client))
    check_bounds(terms, rules)
    Agreement(prepared.folder(client) / "state").accept(terms)


class Listener:
    """Passes events on to the display, the tracker and the registry.

    Traffic is written once per second and at the end, because each write is a transaction that
    syncs the disk while a client's thread waits.
    """

    def __init__(self, registry: Registry, observer: Observer, tracker: Tracker) -> None:
        self._registry = registry
        self._observer = observer
        self._tracker = tracker
        self._lock = threading.Lock()
        self._moved: dict[str, tuple[int, int]] = {}
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._account(0.0)

    def __call__(self, event: Event) -> None:
        """Handle an event from any client's thread."""
        self._observer(event)
        track(self._tracker, event)
        if isinstance(event, Traffic):
            with self._lock:
                up, down = self._moved.get(event.name, (0, 0))
                self._moved[event.name] = (up + event.bytes_up, down + event.bytes_down)
            self._account(ACCOUNT_S)

    def _account(self, after_s: float) -> None:
        """Write the traffic so far, unless the last write is less than `after_s` seconds ago."""
        with self._lock:
            if time.monotonic() < self._written + after_s:
                return
            moved, self._moved = self._moved, {}
            self._written = time.monotonic()
        if moved:
            self._registry.account(moved, ())


def threads_of(prepared: Prepared) -> int:
    """Number of parallel tasks that keeps the cores busy in the stage with the fewest threads."""
    trained = [stage for stage in prepared.config.stages if isinstance(stage, TrainingStage)]
    least = min((stage.threads for stage in trained if stage.threads), default=0)
    return max(1, cores() // least) if least else 1


def device() -> str:
    """The first GPU, else the CPU, as for a client without `--device`."""
    return choose_device(inspect_machine())


def make_handler(base: BaseSection) -> Handler:
    """Make the function that handles a client's message, over one base for all clients."""
    from fedmore.client.client_app import handle
    from fedmore.experts.base.model import load_base

    load_base(base.model, base.dtype, device(), base.quantization)
    handler: Handler = handle
    return handler
