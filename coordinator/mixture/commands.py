"""Runs `coordinator assemble` and `coordinator evaluate`: cheap checks first, then the work."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.folder.federation import Federation, is_running, open_federation
from fedmore.coordinator.lineage.promotion import get_promoted, in_use, why_held
from fedmore.coordinator.mixture.unfinished_withdrawal import finish
from fedmore.experts.errors import ConfigError, RegistryError
from fedmore.experts.routers.spec import ROUTERS
from fedmore.experts.spec import ExpertStorage


@dataclass(frozen=True)
class AssembleOptions:
    """What a mixture shall be; an option that is None follows federation.toml.

    `experts` of None takes all. With `keep_router` the router of the present mixture is extended.
    `keeping` is the experts' storage.
    """

    router: str | None = None
    top_k: int | None = None
    experts: tuple[str, ...] | None = None
    keep_router: bool = False
    keeping: ExpertStorage = ExpertStorage.fp32

    def configured(self, config: FederationConfig) -> FederationConfig:
        """`config` with these choices; raises `ConfigError` for a router that there is not."""
        section = config.router
        kind = section.kind if self.router is None else self.router
        if kind not in ROUTERS:
            raise ConfigError(f"--router {kind}: there are {ROUTERS.listed()}")
        top_k = section.top_k if self.top_k is None else self.top_k
        return replace(config, router=replace(section, kind=kind, top_k=top_k))


def assemble_mixture(directory: Path, wanted: AssembleOptions) -> Path:
    """Put the latest versions of experts together; returns where the mixture is."""
    with open_federation(directory) as federation:
        federation.registry.database.check_writable()
        if federation.registry.withdrawn():
            _leave_out(federation)
        chosen = federation.with_config(wanted.configured(federation.config))
        names = known_experts(chosen, wanted.experts)
        from fedmore.coordinator.mixture.assemble import assemble

        if wanted.experts is None:
            from fedmore.coordinator.mixture.exclusions import keep_routable

            names = tuple(keep_routable(chosen, names))
        return assemble(chosen, names, keep_router=wanted.keep_router, keeping=wanted.keeping)


def _leave_out(federation: Federation) -> None:
    """Remove the part of withdrawn owners; while a plan runs the store keeps what is in it."""
    if not is_running(federation.directory):
        finish(federation, forget=False)
        return
    from fedmore.coordinator.mixture.withdrawal import leave_out

    asked = recovery_rounds.asked_for(federation.config, federation.registry)
    leave_out(federation.with_config(asked))


def evaluate_mixture(directory: Path) -> Mapping[str, Any]:
    """Score base, experts and mixture; returns what was written to evaluation.json."""
    with open_federation(directory) as federation:
        known_experts(federation, None)
        from fedmore.coordinator.mixture.evaluate import evaluate

        found: Mapping[str, Any] = evaluate(federation)
        return found


def known_experts(federation: Federation, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names to use; raises `RegistryError` if an expert, or every expert, is missing."""
    registry = federation.registry
    known = tuple(in_use(registry))
    if not known and (held := why_held(registry)):
        get_promoted(registry, min(held))  # raises, with the reason
    if not known:
        raise RegistryError(
            f"{federation.directory}: no expert yet; `coordinator start` trains them"
        )
    for name in wanted or ():
        get_promoted(registry, name)
    return wanted or known
