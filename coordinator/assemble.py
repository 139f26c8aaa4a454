"""From the registry's experts to a mixture in DIR/mixture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from fedmore.coordinator.config import FederationConfig
from fedmore.coordinator.federation import MIXTURE
from fedmore.coordinator.mixtures import mark_of
from fedmore.coordinator.registry import Registry
from fedmore.coordinator.routers import Trained, initial_router, train_at_coordinator
from fedmore.coordinator.rows import ExpertRow
from fedmore.coordinator.store import Store
from fedmore.experts.base import Base, load_base
from fedmore.experts.errors import BaseError, RegistryError
from fedmore.experts.factors import Factors, from_state
from fedmore.experts.fingerprint import explain
from fedmore.experts.kept import keep, spread
from fedmore.experts.routing.interface import Router
from fedmore.experts.routing.saved import load_router
from fedmore.experts.routing.spec import LEARNED
from fedmore.experts.saved import Entry, Recipe, load_experts, load_router_of, save_mixture
from fedmore.experts.spec import Keeping
from fedmore.strategies import embeddings

EMBEDDINGS = "embeddings"
"""Registry key: digest of the blob with every client's domain embedding."""

ROUTER = "router"
"""Registry key: digest of the router that the clients have trained, where they have."""


def base_of(config: FederationConfig) -> Base:
    """The federation's base, loaded once a process, on the GPU where there is one.

    Raises `BaseError` when it is no longer the one that the federation was made over.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    section = config.base
    base = load_base(section.model, section.dtype, device, section.quantization)
    if section.fingerprint not in ("", base.fingerprint):
        raise BaseError(
            f"{section.model} has fingerprint {base.fingerprint}, the federation was made over "
            f"{section.fingerprint}{explain(base.fingerprint, section.fingerprint)}"
        )
    return base.opened(section.opener, section.open_windows)


def load_factors(store: Store, row: ExpertRow) -> Factors:
    """The change that a registry version holds, scale folded in."""
    return from_state(load(store.get(row.digest)))


def assemble(
    *,
    config: FederationConfig,
    directory: Path,
    registry: Registry,
    store: Store,
    experts: Sequence[str],
    keep_router: bool = False,
    keeping: Keeping = Keeping.fp32,
) -> Path:
    """Write the mixture of the newest versions of `experts`; returns its folder.

    With `keep_router` the router is that of the mixture that is there, and only what it does not
    know is trained. A router is trained over what `keeping` leaves of the experts. Raises
    `RegistryError` for an expert whose owners sent no domain embedding yet.
    """
    base = base_of(config)
    known = {name: registry.latest(name) for name in experts}
    loaded = {name: load_factors(store, row) for name, row in known.items()}
    kept = {name: keep(each, keeping) for name, each in loaded.items()}
    factors = {name: spread(each) for name, each in kept.items()}
    if keep_router:
        means = means_for(config, registry, store, factors)
        made = _kept_router(config, base, directory / MIXTURE, factors, means)
    else:
        made = assemble_router(config, base, registry, store, factors)
    rows = [known[name] for name in made.experts]
    entries = tuple(Entry(r.name, r.kind, r.target, r.rank, r.params, r.digest) for r in rows)
    table = made.router.spec.table()
    without = mark_of(registry.withdrawn())
    recipe = Recipe(config.base.model, base.fingerprint, table, entries, without)
    for name, each in made.experts.items():
        if each is not factors[name]:  # it was trained together with the router
            kept[name] = keep(each, keeping)
    ordered = {name: kept[name] for name in made.experts}
    save_mixture(directory / MIXTURE, recipe, ordered, made.router)
    return directory / MIXTURE


def _kept_router(
    config: FederationConfig,
    base: Base,
    mixture: Path,
    experts: Mapping[str, Factors],
    means: Mapping[str, Tensor] | None,
) -> Trained:
    from fedmore.coordinator.grown import grown_router

    recipe, router = load_router_of(mixture)
    return grown_router(config, base, experts, router, load_experts(mixture, recipe), means)


def assemble_router(
    config: FederationConfig,
    base: Base,
    registry: Registry,
    store: Store,
    experts: Mapping[str, Factors],
) -> Trained:
    """The router of `experts`, trained where the configuration says so, and the experts then."""
    if config.router.kind in LEARNED and config.router.trained_at == "clients":
        return Trained(from_clients(registry, store, list(experts)), dict(experts))
    fresh = initial_router(config, base, experts, means_for(config, registry, store, experts))
    if config.router.kind not in LEARNED:
        return Trained(fresh, dict(experts))
    return train_at_coordinator(config, base, experts, fresh)


def means_for(
    config: FederationConfig, registry: Registry, store: Store, experts: Iterable[str]
) -> dict[str, Tensor] | None:
    """The domain embeddings of `experts`, where the configured router needs them."""
    return domain_means(registry, store, list(experts)) if config.router.embeds else None


def routable(
    config: FederationConfig, registry: Registry, store: Store, names: Iterable[str]
) -> list[str]:
    """Those of `names` that the configured router can have a row for, in order.

    A router that is set, or started, by domain embeddings needs one of each expert. Raises
    `RegistryError` if that leaves none of them.
    """
    wanted = list(names)
    if not config.router.embeds:
        return wanted
    known = sent_means(registry, store)
    kept = [name for name in wanted if name in known]
    if not kept:
        domain_means(registry, store, wanted)  # raises, with what to do
    return kept


def sent_means(registry: Registry, store: Store) -> dict[str, Tensor]:
    """The domain embedding [D] of every expert of which an owner sent one."""
    digest = registry.get_state(EMBEDDINGS)
    sent = embeddings.restore(store.get(digest)) if digest else {}
    return embeddings.by_expert(sent, without=registry.withdrawn())


def domain_means(registry: Registry, store: Store, names: Sequence[str]) -> dict[str, Tensor]:
    """The domain embedding [D] of every expert; raises `RegistryError` where one is missing."""
    known = sent_means(registry, store)
    missing = [name for name in names if name not in known]
    if missing:
        raise RegistryError(
            f"no domain embedding of {', '.join(missing)}: the plan's router stage collects them; "
            "run it, or assemble with --router uniform"
        )
    return known


def from_clients(registry: Registry, store: Store, names: Sequence[str]) -> Router:
    """The router that the clients trained, with its rows for these experts.

    Raises `RegistryError` where there is none, or one of the experts came later.
    """
    digest = registry.get_state(ROUTER)
    if not digest:
        raise RegistryError(
            "no router has been trained at the clients: the plan needs a stage of kind routing"
        )
    router, known = load_router(store.get(digest))
    missing = [name for name in names if name not in known]
    if missing:
        raise RegistryError(
            f"the clients' router knows no {', '.join(missing)}: run a routing stage after them"
        )
    return router.keeping([known.index(name) for name in names])
