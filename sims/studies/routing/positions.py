"""Measures in which part of a document the gap between routing and the oracle lies.

The oracle knows the domain before the first token. A router decides from what it has read, so it
cannot close the whole gap.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.scoring.bits_per_byte import score_tokens
from fedmore.sims.studies.routing.changes import trained
from fedmore.sims.studies.routing.material import Material
from fedmore.sims.studies.routing.trial import fresh, mixed
from fedmore.sims.studies.routing.variants import Size, Variant

EDGES = (0, 1, 4, 16)
"""Token positions at which the parts of a document begin."""

DOMAIN = Variant("domain embeddings", "domain", 4)


def positions(material: Material, size: Size, seed: int) -> list[dict[str, float]]:
    """Every part's share of the bits per byte, averaged over the experts' own texts.

    Returns `[{from, to, base, oracle, domain, remix}]`; the shares add up to the bits per byte.
    `remix` is the router of `changes`: k = 1, started from domain embeddings.
    """
    domain = mixed(material, fresh(material, DOMAIN)).model
    remix = trained(material, size, seed).model
    models: dict[str, Callable[[str], Any]] = {
        "base": lambda _: material.base.model,
        "oracle": lambda name: with_change(material.base.model, material.experts[name]),
        "domain": lambda _: domain,
        "remix": lambda _: remix,
    }
    edges = [edge for edge in EDGES if edge < size.tokens] + [size.tokens]
    shares = {key: _means(material, model, edges) for key, model in models.items()}
    return [
        {"from": first, "to": last, **{key: share[i] for key, share in shares.items()}}
        for i, (first, last) in enumerate(pairwise(edges))
    ]


def _means(material: Material, model: Callable[[str], Any], edges: list[int]) -> list[float]:
    texts = [list(_parts(material, model(name), name, edges)) for name in material.experts]
    return [sum(part) / len(texts) for part in zip(*texts, strict=True)]


def _parts(material: Material, model: Any, text: str, edges: list[int]) -> Iterator[float]:
    documents = material.texts[text]
    scored = score_tokens(model, material.base.text, documents, edges[-1])
    size = sum(bytes_ for _, bytes_ in scored)
    for first, last in pairwise(edges):
        nats = sum(float(nats_T[first:last].sum()) for nats_T, _ in scored)
        yield nats / math.log(2) / size
