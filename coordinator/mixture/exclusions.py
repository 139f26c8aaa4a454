"""Experts that a mixture is made without, because its router cannot have a row for them."""

import logging
from collections.abc import Callable, Iterable

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.promotion import in_use
from fedmore.coordinator.mixture.assemble import routable, sent_means
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import LEFT_OUT
from fedmore.strategies.events import Event, LeftOut

log = logging.getLogger(__name__)
REASON = "no owner sent a domain embedding, by which the router is set"


def keep_routable(
    federation: Federation,
    names: Iterable[str],
    observer: Callable[[Event], None] = lambda _: None,
) -> list[str]:
    """Those of `names` that a mixture can hold; the others are told and noted with their reason.

    Raises `RegistryError` if that leaves none.
    """
    registry, wanted = federation.registry, list(names)
    kept = routable(federation, wanted)
    left = {name: why(registry, name) for name in wanted if name not in kept}
    noted = registry.get_state(LEFT_OUT, {})
    for name, reason in left.items():
        if noted.get(name) != reason:
            registry.add_event("left_out", name, {"reason": reason})
        log.warning("%s is left out of the mixture: %s", name, reason)
        observer(LeftOut(name, reason))
    if left != noted:
        registry.set_state(LEFT_OUT, left)
    return kept


def warnings_of(federation: Federation) -> list[str]:
    """A line for every expert so far that the router cannot have, once embeddings are here."""
    if not federation.config.router.embeds:
        return []
    known = sent_means(federation)
    names = in_use(federation.registry)
    return [f"{name} stays out of the mixture: {REASON}" for name in names if name not in known]


def why(registry: Registry, expert: str) -> str:
    """Why an expert has no embedding: what its owners answered, if they did."""
    rows = [row for row in registry.rounds() if row.kind == "router"]
    metrics = registry.latest(expert).metrics
    if "imported" in metrics:
        return "it was imported without --text, by which the router is set"
    owners = metrics.get("owners", ())
    said = [
        failure
        for row in rows[-1:]
        for failure in row.metrics.get("failures", ())
        if failure.partition(":")[0] in owners
    ]
    return f"{REASON} ({'; '.join(said)})" if said else REASON
