"""What a coordinator that starts finds of its predecessor, and how it goes on from there."""

import time
from collections import Counter
from dataclasses import replace

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.rpc.connections import FINISHED
from fedmore.coordinator.store import state_keys
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import PORT
from fedmore.coordinator.tasks.journal import Journal
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import RoundError
from fedmore.strategies.stages.kinds import trains_on_text

LATE = "late"
"""Key of a round's metrics: the tasks that may still be answered, each with its `id`."""


def recover(journal: Journal, registry: Registry) -> bool:
    """Whether a plan had begun. Forgets what belongs to finished rounds, but for late tasks.

    After a plan that failed, the tasks that failed are done again.
    """
    count_tokens(registry)
    rows = registry.rounds()
    last = {row.stage: row for row in rows}  # in order of rounds
    late = {task["id"] for row in last.values() for task in row.metrics.get(LATE, ())}
    failed = registry.get_state(state_keys.PHASE) == state_keys.FAILED
    groups = {f"{row.kind}/{row.round}" for row in rows}
    return journal.resume(groups, late, retry=failed) > 0 or bool(rows)


def untold(registry: Registry) -> dict[int, str]:
    """Members who were connected once and not told the end, by node id: they may come for it."""
    last = {event.name: event for event in registry.events() if event.kind in ("joined", "left")}
    told = {name for name, event in last.items() if event.payload.get("reason") == FINISHED}
    members = [member for member in registry.members() if not member.barred]
    return {m.node_id: m.name for m in members if m.name in last.keys() - told}


def count_tokens(registry: Registry) -> None:
    """Bring members' counts to what the rounds say: once each, whatever was interrupted."""
    trained: Counter[str] = Counter()
    for row in registry.rounds():
        if trains_on_text(row.kind):
            trained.update({n: int(c["tokens"]) for n, c in row.metrics["clients"].items()})
    for member in registry.members():
        if trained[member.name] != member.train_tokens:
            registry.add_tokens(member.name, trained[member.name] - member.train_tokens)


def expected_clients(registry: Registry, count: int, begun: bool) -> int:
    """How many clients are waited for: `count`, but in a plan that has begun only who can come.

    Who was revoked or has withdrawn takes part no more.
    """
    if not begun:
        return count
    return max(1, min(count, sum(not member.barred for member in registry.members())))


def wait_for_clients(
    queue: TaskQueue,
    registry: Registry,
    count: int,
    patience_s: float | None,
    rejoin_timeout_s: float | None,
) -> None:
    """Return when `count` clients are here or, after `rejoin_timeout_s` seconds, any.

    A `rejoin_timeout_s` of None waits for all of them; otherwise a plan has begun
    (`expected_clients`). Raises `RoundError` after `patience_s` seconds.
    """
    count = expected_clients(registry, count, rejoin_timeout_s is not None)
    began = time.monotonic()
    first = min((s for s in (patience_s, rejoin_timeout_s) if s is not None), default=None)
    if queue.wait_for_nodes(count, first):
        return
    if rejoin_timeout_s is not None:
        left = None if patience_s is None else began + patience_s - time.monotonic()
        if queue.wait_for_nodes(1, left):
            return
    raise RoundError(_missing(queue, registry, count, patience_s or 0.0))


def on_same_port(federation: Federation) -> FederationConfig:
    """The configuration; if any port will do, it names the port that the clients know already."""
    config = federation.config
    port = config.server.port or int(federation.registry.get_state(PORT, 0))
    return replace(config, server=replace(config.server, port=port))


def _missing(queue: TaskQueue, registry: Registry, count: int, waited_s: float) -> str:
    here = {registry.member(node).name for node in queue.nodes()}
    known = [*registry.members(), *registry.invited()]
    missing = ", ".join(m.name for m in known if m.name not in here) or "invite more clients"
    return f"{len(here)} of {count} clients came within {waited_s:g} s; missing: {missing}"
