"""The common material of a seed's routers: base, frozen experts, training and scored text."""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.shared_base import base_of
from fedmore.coordinator.mixture import router_factory
from fedmore.coordinator.mixture.assemble import domain_means, load_factors
from fedmore.experts.base.model import Base
from fedmore.experts.factors import Factors
from fedmore.experts.mixture.model import routed_blocks
from fedmore.experts.reading.documents import read_documents
from fedmore.experts.text.tokenization import sample
from fedmore.experts.text.windows import windows
from fedmore.sims.data.texts import proxy_beside
from fedmore.sims.studies.routing.variants import Size

MIXED = "mixed"
"""Name of the text of documents whose halves come from two domains."""

PIECE = 160
"""Characters of a half."""

Texts = dict[str, list[str]]


@dataclass(frozen=True)
class Material:
    """The material of one seed.

    `texts` maps names to held-out documents, an expert's under its name.

    `windows` [W, T + 1] are the coordinator's training windows, equally many per domain. They come
    from proxy documents, whose families no client has and no score uses. `public` [N, D] are
    embeddings of public text, `public_windows` [W, T] its tokens.
    """

    base: Base
    config: FederationConfig
    experts: dict[str, Factors]
    blocks: tuple[int, ...]
    windows: Tensor
    texts: Texts
    means: dict[str, Tensor]
    public: Tensor
    public_windows: Tensor

    @property
    def width(self) -> int:
        """Width of an embedding."""
        return int(self.public.shape[1])

    def only(self, names: list[str]) -> "Material":
        """Return the material with only these experts."""
        kept = {name: self.experts[name] for name in names}
        return replace(self, experts=kept, blocks=routed_blocks(kept))


def load(directory: Path, size: Size) -> Material:
    """Load the material from the folder of a finished scenario."""
    with open_federation(directory) as federation:
        config, registry, store = federation.config, federation.registry, federation.store
        base = base_of(config)
        names = sorted({row.name for row in registry.experts()})
        experts = {name: load_factors(store, registry.latest(name)) for name in names}
        means = domain_means(federation, names)
    seed = config.federation.seed
    scored, proxies = _texts(config, size)
    rows = [windows(proxies[name], base.text, size.tokens, size.windows, seed) for name in names]
    order = torch.randperm(len(names) * size.windows, generator=torch.Generator().manual_seed(seed))
    texts = dict(scored)
    texts[MIXED] = _mixed([texts[name] for name in names], size.documents)
    return Material(
        base, config, experts, routed_blocks(experts), torch.cat(rows)[order], texts, means,
        router_factory.public_embeddings(config, base), router_factory.public_windows(config, base),
    )  # fmt: skip


def _texts(config: FederationConfig, size: Size) -> tuple[Texts, Texts]:
    """Documents of every text: those for scoring and those for training a router."""
    scored, proxies = {}, {}
    for name, path in config.evaluation.texts.items():
        scored[name] = sample(read_documents(Path(path)), size.documents, 0)
        proxies[name] = read_documents(proxy_beside(Path(path)))
    return scored, proxies


def _mixed(texts: list[list[str]], count: int) -> list[str]:
    """Join halves of documents from two different domains."""
    generator = random.Random(0)
    found = []
    for index in range(count):
        one, other = generator.sample(range(len(texts)), 2)
        halves = [texts[i][index % len(texts[i])][:PIECE] for i in (one, other)]
        found.append("\n".join(halves))
    return found
