"""`coordinator assemble` and `coordinator evaluate`: checks first, then the heavy part."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from fedmore.coordinator.federation import Federation, open_federation
from fedmore.experts.errors import ConfigError, RegistryError

ROUTERS = ("domain", "uniform")


def assemble_mixture(directory: Path, router: str, experts: tuple[str, ...] | None) -> Path:
    """Put the latest versions of `experts` (None: all) together; returns where the mixture is."""
    if router not in ROUTERS:
        raise ConfigError(f"--router {router}: there are {', '.join(ROUTERS)}")
    with open_federation(directory) as federation:
        if federation.registry.withdrawn():
            from fedmore.coordinator.withdrawal import leave_out

            leave_out(federation.config, federation.registry, federation.store)
        names = known_experts(federation, experts)
        from fedmore.coordinator.assemble import assemble

        kind = cast("Literal['domain', 'uniform']", router)
        config = replace(federation.config, router=replace(federation.config.router, kind=kind))
        assemble(
            config=config,
            directory=directory,
            registry=federation.registry,
            store=federation.store,
            experts=names,
        )
    return directory / "mixture"


def evaluate_mixture(directory: Path) -> Mapping[str, Any]:
    """Score base, experts and mixture; returns what is in evaluation.json then."""
    with open_federation(directory) as federation:
        known_experts(federation, None)
        from fedmore.coordinator.evaluate import evaluate

        found: Mapping[str, Any] = evaluate(
            config=federation.config,
            directory=directory,
            registry=federation.registry,
            store=federation.store,
        )
        return found


def known_experts(federation: Federation, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names to use; raises `RegistryError` where one, or any at all, is missing."""
    known = tuple(sorted({e.name for e in federation.registry.experts()}))
    if not known:
        raise RegistryError(
            f"{federation.directory}: no expert yet; `coordinator start` trains them"
        )
    for name in wanted or ():
        federation.registry.latest(name)
    return wanted or known
