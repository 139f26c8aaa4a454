"""What becomes of a stage in which nobody is left: wait for its owners, try again, go on without.

The rule is that no single owner's failure ends the others' plan. A quorum that was set and missed
still ends it, and so does a stage without which there is no mixture.
"""

import logging
import time
from collections.abc import Callable

from flwr.serverapp import Grid

from fedmore.coordinator.store.registry import Member, Registry
from fedmore.coordinator.store.state_keys import SKIPPED
from fedmore.strategies.events import Event, Waiting
from fedmore.strategies.stages.base import Stage

log = logging.getLogger(__name__)
POLL_S = 0.5


def owners_of(registry: Registry, stage: Stage) -> list[Member]:
    """The members who take part in `stage` and are neither revoked nor withdrawn."""
    kind = stage.trains
    members = [member for member in registry.members() if not member.barred]
    return [member for member in members if kind in (None, member.kind)]


def has_owner(
    registry: Registry,
    grid: Grid,
    stage: Stage,
    observer: Callable[[Event], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether an owner of `stage` is here to be asked again, or comes back within `timeout_s`.

    A stage that was given up before a restart is not waited for again.
    """
    deadline, told = clock() + stage.timeout_s, False
    while owners := owners_of(registry, stage):
        if stage.kind in registry.get_state(SKIPPED, {}):
            return False
        if {member.node_id for member in owners} & set(grid.get_node_ids()):
            return True
        if not told:
            observer(Waiting(tuple(member.name for member in owners), stage.timeout_s))
            told = True
        if clock() >= deadline:
            return False
        sleep(POLL_S)
    return False


def carried_out(registry: Registry, stage: Stage) -> None:
    """Note that a stage is finished, also one that was given up before a restart."""
    known = registry.get_state(SKIPPED, {})
    if stage.kind in known:
        registry.set_state(SKIPPED, {k: v for k, v in known.items() if k != stage.kind})


def skip(registry: Registry, stage: Stage, reason: str) -> None:
    """Note that a stage ended early; the next one may begin."""
    known = registry.get_state(SKIPPED, {})
    if known.get(stage.kind) != reason:
        registry.add_event("skipped", stage.kind, {"reason": reason})
        registry.set_state(SKIPPED, {**known, stage.kind: reason})
    log.warning("stage %s ends early: %s", stage.kind, reason)
