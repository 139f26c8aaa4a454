"""Makes, trains and scores one router of the study."""

from dataclasses import asdict, dataclass, field
from typing import Any

from fedmore.coordinator.mixture.router_factory import RouterSources, untrained
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.mixture.model import Mixture, assemble
from fedmore.experts.router_training.gradient import Trace, Training, train_router
from fedmore.experts.router_training.usage import by_decision
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.sampling import effective_size
from fedmore.experts.scoring import bits_per_byte as scoring
from fedmore.sims.studies.routing.material import Material
from fedmore.sims.studies.routing.tables import ChargedTable, Shared
from fedmore.sims.studies.routing.variants import Size, Variant

Nats = dict[str, list[float]]
"""Nats of every document, by text."""


@dataclass
class Trial:
    """The result of one router in one seed: nats, effective sample size, cost and training.

    `steps_per_s` is None for a router without training, and for one that clients train in parallel.
    For the latter, `losses` has one number per round.
    """

    variant: dict[str, Any]
    nats: Nats
    ess: list[float]
    active_params: int
    router_params: int
    steps_per_s: float | None = None
    losses: list[float] = field(default_factory=list)
    ess_steps: list[list[float]] = field(default_factory=list)


def run(
    material: Material, variant: Variant, size: Size, seed: int, shared: Shared | None = None
) -> Trial:
    """Make the router, train it if its kind is trained, and score the mixture."""
    mixture = mixed(material, fresh(material, variant))
    trace = fit(mixture, material, variant, size, seed, shared) if variant.trained_at else None
    return measured(mixture, material, variant, size, trace)


def mixed(material: Material, router: Router) -> Mixture:
    """Make the mixture of all experts under `router`."""
    return assemble(material.base.model, material.experts, router)


def fresh(material: Material, variant: Variant) -> Router:
    """Make an untrained router."""
    spec = variant.spec(len(material.experts), material.width, len(material.blocks))
    sources = RouterSources(
        material.means, lambda: material.public, lambda: material.public_windows
    )
    return untrained(spec, material.base, material.experts, sources)


def fit(
    mixture: Mixture,
    material: Material,
    variant: Variant,
    size: Size,
    seed: int,
    shared: Shared | None = None,
) -> Trace:
    """Train the mixture's router as the variant says, using shared losses if given."""
    training = Training(
        steps=size.table_steps if variant.tabled else size.steps,
        batch_size=size.batch,
        learning_rate=variant.rate,
        num_selections=variant.samples,
        seed=seed,
    )
    if not variant.tabled:
        return train_router(mixture, material.windows, training)
    table = ChargedTable(mixture, material.windows, shared or Shared())
    trace = train_router(mixture, material.windows, training, table=table)
    trace.seconds[0] += table.charged
    return trace


def measured(
    mixture: Mixture, material: Material, variant: Variant, size: Size, trace: Trace | None
) -> Trial:
    """Score every document, and measure how the router spreads its weights."""
    spec = mixture.router.spec
    return Trial(
        variant=asdict(variant),
        nats=score_all(mixture.model, material, size),
        ess=_ess(mixture, material, size),
        active_params=mixture.active_params(spec.top_k),
        router_params=sum(p.numel() for p in mixture.router.parameters()),
        steps_per_s=trace.steps_per_s if trace else None,
        losses=trace.losses if trace else [],
        ess_steps=trace.ess if trace else [],
    )


def score_all(model: Any, material: Material, size: Size) -> Nats:
    """Score every document of every text."""
    return {text: score_text(model, material, text, size) for text in material.texts}


def score_text(model: Any, material: Material, text: str, size: Size) -> list[float]:
    """Nats of one text's documents, rounded to six digits."""
    scores = scoring.score(model, material.base.text, material.texts[text], size.tokens)
    return [round(each.nats, 6) for each in scores]


def sizes(material: Material, size: Size) -> dict[str, list[int]]:
    """Scored bytes of every document, by text."""
    text = material.base.text
    return {
        name: [text.cut(document, size.tokens).size for document in documents]
        for name, documents in material.texts.items()
    }


def oracle(material: Material, size: Size) -> Nats:
    """Score every domain under its own expert alone."""
    return {
        name: score_text(with_change(material.base.model, factors), material, name, size)
        for name, factors in material.experts.items()
    }


def _ess(mixture: Mixture, material: Material, size: Size) -> list[float]:
    """Mean effective sample size of each decision, over one document per domain."""
    import torch

    rows = []
    for name in material.experts:
        ids = material.base.text.document(material.texts[name][0])[: size.tokens]
        rows.append(effective_size(by_decision(mixture, torch.tensor([ids])))[:, 1:].mean(1))
    return [float(x) for x in torch.stack(rows).mean(0)]
