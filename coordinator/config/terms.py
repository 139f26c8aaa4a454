"""What a federation asks of its owners: the terms that its configuration comes to."""

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.strategies.terms import RouterTerms, Terms, owners_part


def terms_of(config: FederationConfig) -> Terms:
    """The part of a configuration that owners agree to; every task follows from it."""
    section = config.router
    router = RouterTerms(
        kind=section.kind,
        granularity=section.granularity,
        prefix_tokens=section.prefix_tokens,
        top_k=section.top_k,
        scaling=section.scaling,
        init=section.init,
        num_selections=section.num_selections,
        entropy_weight=section.entropy_weight,
        z_loss_weight=section.z_loss_weight,
    )
    stages = tuple(owners_part(stage) for stage in config.stages)
    return Terms(
        seed=config.federation.seed,
        stages=stages,
        router=router,
        opener=config.base.opener,
        open_windows=config.base.open_windows,
    )
