"""The router that the configuration asks for, over the experts that there are."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.experts.base.model import Base
from fedmore.experts.errors import ConfigError
from fedmore.experts.factors import Factors, mapped
from fedmore.experts.mixture.model import assemble, routed_blocks
from fedmore.experts.reading.conversations import chat_template
from fedmore.experts.reading.documents import read_documents
from fedmore.experts.router_training.gradient import Trace, Training, fit_features, train_router
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec, is_per_layer
from fedmore.experts.routers.static import DomainRouter, domain_router
from fedmore.experts.text.passages import passages
from fedmore.experts.text.windows import windows
from fedmore.strategies.terms import EMBED_DOCUMENTS, EMBED_TOKENS

PUBLIC_WINDOWS = 32


def router_spec(config: FederationConfig, base: Base, experts: Mapping[str, Factors]) -> RouterSpec:
    """What `router.*` of the configuration says, for these experts.

    ReMix chooses from as many arms as there are: owners may withdraw.
    """
    section, arms = config.router, len(experts) + 1
    layered = section.per_layer or is_per_layer(section.kind)
    top_k = min(section.top_k, arms) if section.kind == "remix" else section.top_k
    return RouterSpec(
        kind=section.kind,
        experts=len(experts),
        width=_width(base),
        layers=len(routed_blocks(experts)) if layered else 1,
        granularity=section.granularity,
        prefix_tokens=section.prefix_tokens,
        top_k=top_k,
        scaling=section.scaling,
        init=section.init,
    )


def initial_router(
    config: FederationConfig,
    base: Base,
    experts: Mapping[str, Factors],
    means: Mapping[str, Tensor] | None = None,
) -> Router:
    """The router before any training; `means` are the domain embeddings [D] by expert."""
    sources = RouterSources(
        means, partial(public_embeddings, config, base), partial(public_windows, config, base)
    )
    return untrained(router_spec(config, base, experts), base, experts, sources)


@dataclass(frozen=True)
class RouterSources:
    """What a router is set from before training; public text is read only if the router needs it.

    `means` holds the domain embedding [D] of each expert. `embeddings` returns embeddings [N, D] of
    tokens of public text, and `windows` returns windows [W, T] of it.
    """

    means: Mapping[str, Tensor] | None
    embeddings: Callable[[], Tensor]
    windows: Callable[[], Tensor]


def untrained(
    spec: RouterSpec, base: Base, experts: Mapping[str, Factors], sources: RouterSources
) -> Router:
    """The router of `spec` over `experts`, before any training."""
    if spec.kind == "domain":
        return _domain_router(spec, experts, sources)
    router: Any = make_router(spec)
    blocks = routed_blocks(experts)
    router.prepare(experts, blocks)
    if hasattr(router, "features"):
        fit_features(router, base.model, sources.windows(), blocks)
    if spec.init == "domain":
        known = _domain_router(router.domain.spec, experts, sources)
        router.domain.load_state_dict(known.state_dict())
    started: Router = router
    return started


def uniform_router(base: Base, experts: Collection[str]) -> Router:
    """Return the router that gives all experts the same weight."""
    return make_router(RouterSpec("uniform", len(experts), _width(base)))


def _width(base: Base) -> int:
    """The length of a token's embedding."""
    return int(base.model.get_input_embeddings().weight.shape[1])


def _domain_router(
    spec: RouterSpec, experts: Iterable[str], sources: RouterSources
) -> DomainRouter:
    if sources.means is None:
        raise ConfigError("the router needs the clients' domain embeddings")
    means = [sources.means[name] for name in experts]
    return domain_router(spec, means, sources.embeddings())


@dataclass(frozen=True)
class Trained:
    """A trained router, the experts as they are with it, and the progress of its training."""

    router: Router
    experts: dict[str, Factors]
    trace: Trace | None = None


def train_at_coordinator(
    config: FederationConfig, base: Base, experts: Mapping[str, Factors], router: Router
) -> Trained:
    """Train `router` on the proxy texts, and copies of the experts if they have a rate."""
    training = training_of(config)
    mixture = assemble(base.model, experts, router, trainable=training.experts_learning_rate > 0)
    trace = train_router(mixture, proxy_windows(config, base), training)
    changed = {
        name: mapped(factors, lambda factor: factor.detach().cpu())
        for name, factors in mixture.trained.items()
    }
    return Trained(router.cpu(), changed or dict(experts), trace)


def training_of(config: FederationConfig) -> Training:
    """What `router.*` says of a training at the coordinator."""
    section = config.router
    return Training(
        steps=section.steps,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        num_selections=section.num_selections,
        entropy_weight=section.entropy_weight,
        balance_weight=section.balance_weight,
        z_loss_weight=section.z_loss_weight,
        experts_learning_rate=section.experts_learning_rate,
        seed=config.federation.seed,
    )


def proxy_windows(config: FederationConfig, base: Base) -> Tensor:
    """Windows [W, T + 1] of the proxy texts in turn, as many as the training reads."""
    section = config.router
    if not section.proxy_texts:
        raise ConfigError("router.proxy_texts: name public text that is like each domain's")
    each = -(-section.steps * section.batch_size // len(section.proxy_texts))
    length, seed = section.sequence_length, config.federation.seed
    texts = [_documents(path, base) for path in section.proxy_texts.values()]
    rows = [windows(documents, base.text, length, each, seed) for documents in texts]
    return torch.stack(rows, dim=1).flatten(0, 1)


def public_embeddings(config: FederationConfig, base: Base) -> Tensor:
    """Input embeddings [N, D] of the tokens of the public text that `router.public_text` names."""
    return embeddings_of(_public(config, base), base, config.federation.seed)


def embeddings_of(documents: Sequence[str], base: Base, seed: int) -> Tensor:
    """Input embeddings [N, D], float32, of the tokens of passages of `documents`."""
    found = passages(documents, base.text, EMBED_DOCUMENTS, EMBED_TOKENS, seed)
    tokens = [token for passage in found for token in passage.ids]
    ids = torch.tensor(tokens, device=base.model.device)
    embedded: Tensor = base.model.get_input_embeddings()(ids).float().cpu()
    return embedded


def public_windows(config: FederationConfig, base: Base) -> Tensor:
    """Windows [W, T] of public text, to centre a learned router's features by."""
    seed, length = config.federation.seed, config.router.sequence_length
    found = windows(_public(config, base), base.text, length, PUBLIC_WINDOWS, seed)
    return found[:, :-1].to(base.model.device)


def _public(config: FederationConfig, base: Base) -> list[str]:
    if not config.router.public_text:
        raise ConfigError(
            f"router.public_text: the {config.router.kind} router needs a file of public text"
        )
    return _documents(config.router.public_text, base)


def _documents(path: str, base: Base) -> list[str]:
    return read_documents(Path(path), converse=chat_template(base.tokenizer))
