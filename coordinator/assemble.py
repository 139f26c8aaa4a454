"""From the registry's experts to a mixture in DIR/mixture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from fedmore.coordinator.config import FederationConfig
from fedmore.coordinator.federation import MIXTURE
from fedmore.coordinator.registry import Registry
from fedmore.coordinator.rows import ExpertRow
from fedmore.coordinator.store import Store
from fedmore.experts.base import Base, load_base
from fedmore.experts.errors import ConfigError, RegistryError
from fedmore.experts.factors import Factors, from_state
from fedmore.experts.router import Router, UniformRouter, domain_router
from fedmore.experts.saved import Entry, Recipe, save_mixture
from fedmore.experts.text import read_documents, sample, tokenize
from fedmore.strategies import embeddings
from fedmore.strategies.router import DOCUMENTS, TOKENS

EMBEDDINGS = "embeddings"
"""Registry key: digest of the blob with every client's domain embedding."""


def base_of(config: FederationConfig) -> Base:
    """The federation's base, loaded once a process, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    section = config.base
    return load_base(section.model, section.dtype, device, section.quantization)


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
) -> Path:
    """Write the mixture of the newest versions of `experts`; returns its folder.

    Raises `RegistryError` for an expert whose owners sent no domain embedding yet.
    """
    base = base_of(config)
    rows = [registry.latest(name) for name in experts]
    router = _router(config, base, registry, store, [row.name for row in rows])
    entries = tuple(Entry(r.name, r.kind, r.target, r.rank, r.params, r.digest) for r in rows)
    section = config.router
    recipe = Recipe(config.base.model, base.fingerprint, section.kind, section.top_k, entries)
    factors = {row.name: load_factors(store, row) for row in rows}
    save_mixture(directory / MIXTURE, recipe, factors, router)
    return directory / MIXTURE


def _router(
    config: FederationConfig, base: Base, registry: Registry, store: Store, names: Sequence[str]
) -> Router:
    if config.router.kind == "uniform":
        return UniformRouter(len(names))
    digest = registry.get_state(EMBEDDINGS)
    sent = embeddings.restore(store.get(digest)) if digest else {}
    known = embeddings.by_expert(sent, without=registry.withdrawn())
    missing = [name for name in names if name not in known]
    if missing:
        raise RegistryError(
            f"no domain embedding of {', '.join(missing)}: the plan's router stage collects them; "
            "run it, or assemble with --router uniform"
        )
    public = public_embeddings(config, base)
    return domain_router({name: known[name] for name in names}, public, config.router.top_k)


def public_embeddings(config: FederationConfig, base: Base) -> Tensor:
    """Input embeddings [N, D] of the tokens of the public text that `router.public_text` names."""
    if not config.router.public_text:
        raise ConfigError("router.public_text: the domain router needs a file of public text")
    documents = read_documents(Path(config.router.public_text))
    texts = sample(documents, DOCUMENTS, config.federation.seed)
    rows = [tokenize(base.tokenizer, text)[1 : TOKENS + 1] for text in texts]
    ids = torch.tensor([token for row in rows for token in row], device=base.model.device)
    model: Any = base.model
    embedded: Tensor = model.get_input_embeddings()(ids).float().cpu()
    return embedded
