"""From the registry's experts to a mixture in DIR/mixture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from safetensors.torch import load
from torch import Tensor

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.folder.layout import MIXTURE
from fedmore.coordinator.folder.shared_base import base_of
from fedmore.coordinator.lineage.promotion import get_promoted
from fedmore.coordinator.mixture.router_factory import Trained, initial_router, train_at_coordinator
from fedmore.coordinator.mixture.validity import mark_of
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.records import ExpertRow
from fedmore.coordinator.store.state_keys import EMBEDDINGS, IMPORTED, ROUTER
from fedmore.experts.base.model import Base
from fedmore.experts.errors import RegistryError
from fedmore.experts.factors import Factors, from_state
from fedmore.experts.mixture.checkpoint import (
    Entry,
    Recipe,
    load_experts,
    load_router_of,
    save_mixture,
)
from fedmore.experts.quantized import dequantize, quantize
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.serialization import load_router
from fedmore.experts.routers.spec import is_learned
from fedmore.experts.spec import ExpertStorage
from fedmore.strategies.embedding_stage import embeddings


def load_factors(store: Store, row: ExpertRow) -> Factors:
    """The change that a registry version holds, scale folded in."""
    return from_state(load(store.get(row.digest)))


def assemble(
    federation: Federation,
    experts: Sequence[str],
    *,
    keep_router: bool = False,
    keeping: ExpertStorage = ExpertStorage.fp32,
) -> Path:
    """Write the mixture of the promoted versions of `experts`; returns its folder.

    With `keep_router` the router is that of the mixture that is there, and only what it does not
    know is trained. A router is trained over what `keeping` leaves of the experts. Raises
    `RegistryError` for an expert whose owners sent no domain embedding yet.
    """
    config, registry = federation.config, federation.registry
    base, folder = base_of(config), federation.directory / MIXTURE
    known = {name: get_promoted(registry, name) for name in experts}
    loaded = {name: load_factors(federation.store, row) for name, row in known.items()}
    kept = {name: quantize(each, keeping) for name, each in loaded.items()}
    factors = {name: dequantize(each) for name, each in kept.items()}
    if keep_router:
        means = means_for(federation, factors)
        made = _kept_router(config, base, folder, factors, means)
    else:
        made = assemble_router(federation, base, factors)
    rows = [known[name] for name in made.experts]
    entries = tuple(Entry(r.name, r.kind, r.target, r.rank, r.params, r.digest) for r in rows)
    table = made.router.spec.table()
    without = mark_of(registry.withdrawn())
    recipe = Recipe(config.base.model, base.fingerprint, table, entries, without)
    for name, each in made.experts.items():
        if each is not factors[name]:  # it was trained together with the router
            kept[name] = quantize(each, keeping)
    ordered = {name: kept[name] for name in made.experts}
    save_mixture(folder, recipe, ordered, made.router)
    return folder


def _kept_router(
    config: FederationConfig,
    base: Base,
    mixture: Path,
    experts: Mapping[str, Factors],
    means: Mapping[str, Tensor] | None,
) -> Trained:
    from fedmore.coordinator.mixture.router_extension import grown_router

    recipe, router = load_router_of(mixture)
    return grown_router(config, base, experts, router, load_experts(mixture, recipe), means)


def assemble_router(federation: Federation, base: Base, experts: Mapping[str, Factors]) -> Trained:
    """The router, trained if the configuration says so, and the experts that it is for."""
    config = federation.config
    if is_learned(config.router.kind) and config.router.trained_at == "clients":
        return Trained(from_clients(federation, list(experts)), dict(experts))
    fresh = initial_router(config, base, experts, means_for(federation, experts))
    if not is_learned(config.router.kind):
        return Trained(fresh, dict(experts))
    return train_at_coordinator(config, base, experts, fresh)


def means_for(federation: Federation, experts: Iterable[str]) -> dict[str, Tensor] | None:
    """The domain embeddings of `experts`; None if the configured router needs none."""
    embeds = federation.config.router.embeds
    return domain_means(federation, list(experts)) if embeds else None


def routable(federation: Federation, names: Iterable[str]) -> list[str]:
    """Those of `names` that the configured router can have a row for, in order.

    A router that is set by domain embeddings, or starts from them, needs one for each expert.
    Raises `RegistryError` if none is left.
    """
    wanted = list(names)
    if not federation.config.router.embeds:
        return wanted
    known = sent_means(federation)
    kept = [name for name in wanted if name in known]
    if not kept:
        domain_means(federation, wanted)  # raises, with what to do
    return kept


def sent_means(federation: Federation) -> dict[str, Tensor]:
    """The domain embedding [D] of every expert that has one: by an owner, or by its import."""
    registry, store = federation.registry, federation.store
    digest, imported = registry.get_state(EMBEDDINGS), registry.get_state(IMPORTED)
    sent = embeddings.restore(store.get(digest)) if digest else {}
    known = embeddings.by_expert(sent, without=registry.withdrawn())
    taken_in = embeddings.restore(store.get(imported)) if imported else {}
    return known | embeddings.by_expert(taken_in)


def domain_means(federation: Federation, names: Sequence[str]) -> dict[str, Tensor]:
    """The domain embedding [D] of every expert; raises `RegistryError` if one is missing."""
    known = sent_means(federation)
    missing = [name for name in names if name not in known]
    if missing:
        raise RegistryError(
            f"no domain embedding of {', '.join(missing)}: the plan's router stage collects them; "
            "run it, or assemble with --router uniform"
        )
    return known


def from_clients(federation: Federation, names: Sequence[str]) -> Router:
    """Return the router that the clients trained, with its rows for these experts.

    Raises `RegistryError` if there is none, or if one of the experts was added later.
    """
    digest = federation.registry.get_state(ROUTER)
    if not digest:
        raise RegistryError(
            "no router has been trained at the clients: the plan needs a stage of kind routing"
        )
    router, known = load_router(federation.store.get(digest))
    missing = [name for name in names if name not in known]
    if missing:
        raise RegistryError(
            f"the clients' router knows no {', '.join(missing)}: run a routing stage after them"
        )
    return router.keeping([known.index(name) for name in names])
