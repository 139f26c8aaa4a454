"""Gives the routing stage its experts and router, from registry and store."""

from collections.abc import Callable, Mapping

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.promotion import in_use
from fedmore.coordinator.mixture.assemble import load_factors, means_for
from fedmore.coordinator.mixture.evaluate import Scorer
from fedmore.coordinator.mixture.exclusions import keep_routable
from fedmore.coordinator.mixture.router_factory import initial_router
from fedmore.coordinator.mixture.withdrawal import leave_out
from fedmore.experts.base.model import shapes_of
from fedmore.experts.factors import Factors
from fedmore.experts.routers.base import Router
from fedmore.kernels.determinism import one_thread
from fedmore.strategies.router_stage.strategy import RoutingSource


def routing_source(federation: Federation, scorer: Scorer) -> RoutingSource:
    """What the routing stage works on: newest experts, an untrained router, `router.*`."""
    config, base = federation.config, scorer.base
    section = config.router

    def initial(experts: Mapping[str, Factors]) -> Router:
        with one_thread():  # the same wherever it is made again
            means = means_for(federation, experts)
            return initial_router(config, base, experts, means).cpu()

    return RoutingSource(
        shapes=shapes_of(base.model),
        experts=_experts(federation),
        initial=initial,
        num_selections=section.num_selections,
        entropy_weight=section.entropy_weight,
        z_loss_weight=section.z_loss_weight,
        withdrawn=federation.registry.withdrawn,
    )


def _experts(federation: Federation) -> Callable[[], dict[str, Factors]]:
    """The newest version of every expert, without the part of withdrawn owners.

    A router that starts from domain embeddings has no row for an expert without one.
    """
    registry, store = federation.registry, federation.store
    known: dict[frozenset[str], dict[str, Factors]] = {}

    def experts() -> dict[str, Factors]:
        gone = frozenset(registry.withdrawn())
        if gone not in known:
            leave_out(federation)
            used = in_use(registry)
            names = keep_routable(federation, used) if used else []
            known.clear()
            known[gone] = {name: load_factors(store, used[name]) for name in names}
        return known[gone]

    return experts
