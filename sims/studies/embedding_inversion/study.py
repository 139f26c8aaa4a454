"""`fedmore sim run embedding-inversion`: names words from embeddings, and tells domains apart."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import ConfigError
from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import DomainRouter, domain_router
from fedmore.sims.studies.embedding_inversion.attack import (
    expected,
    invert,
    rare_named,
    share_named,
)
from fedmore.sims.studies.embedding_inversion.material import (
    GENERAL,
    Given,
    Material,
    given,
    smollm,
    tiny,
)
from fedmore.sims.studies.embedding_inversion.results import table
from fedmore.sims.studies.finished import kept, write

SEEDS = (0, 1, 2)
RARE = 50
OPEN = OwnerPolicy(embedding_noise=0.0, embedding_clip=1e6)
"""Policy of an owner without a defence, who sends the bare mean."""

HELD_OUT = 60
"""Most held-out documents of each domain."""

ATTACKED = 2
"""Number of domains whose embeddings are attacked."""

WORDS = ("tokens_named", "tokens_by_chance", "rare_named", "rare_by_chance")

PROMPT = 128
"""Number of a held-out document's first tokens that decide its domain."""


@dataclass(frozen=True)
class Case:
    """The largest number of passages and their tokens, with the default defence or without."""

    passages: int
    tokens: int
    defended: bool

    @property
    def name(self) -> str:
        """Name in files and tables."""
        return f"{self.passages}x{self.tokens}-{'defended' if self.defended else 'open'}"

    @property
    def rules(self) -> OwnerPolicy:
        """The owner's policy."""
        return OwnerPolicy() if self.defended else OPEN


CASES = (
    Case(1000, 128, defended=True),
    Case(1000, 128, defended=False),
    Case(16, 128, defended=True),
    Case(16, 16, defended=True),
    Case(16, 16, defended=False),
)
"""The cases: what a plan usually asks for; 16 x 128, the least that the floors allow; and 16 x 16
tokens, which they refuse, with the bare mean."""


def named(
    material: Material, case: Case, domain: str, seed: int, priors: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Attack one owner's embedding with each of the priors [V]."""
    own, _ = material.divided(domain, seed)
    made = given(material, own, (case.passages, case.tokens), case.rules, seed)
    total = float(made.truth_V.sum())
    rows = []
    for known, prior_V in priors.items():
        guess_V = expected(prior_V, total)
        found_V = invert(made.mean_D, total, prior_V, material.rows_VD, made.noise)
        rows.append({
            **_about(material, case, made, seed), "domain": domain, "known": known,
            "tokens_named": share_named(found_V, made.truth_V),
            "tokens_by_chance": share_named(guess_V, made.truth_V),
            "rare_named": rare_named(found_V, prior_V, made.truth_V, RARE),
            "rare_by_chance": rare_named(guess_V, prior_V, made.truth_V, RARE),
        })  # fmt: skip
    return rows


def told_apart(material: Material, case: Case, seed: int) -> dict[str, Any]:
    """Measure the share of held-out documents whose domain a router of these embeddings finds."""
    owners = {
        name: given(
            material, material.divided(name, seed)[0], (case.passages, case.tokens), case.rules,
            seed,
        )
        for name in material.texts
    }  # fmt: skip
    ids = [i for text in material.general for i in material.base.text.plain(text)]
    public_ND = material.rows_VD[torch.tensor(ids[:50_000])]
    spec = RouterSpec("domain", len(owners), material.rows_VD.shape[1], top_k=0)
    router = domain_router(spec, [made.mean_D for made in owners.values()], public_ND)
    found = [
        _nearest(router, material, text) == number
        for number, name in enumerate(material.texts)
        for text in material.texts[name][1][:HELD_OUT]
    ]
    made = next(iter(owners.values()))
    about = _about(material, case, made, seed)
    return {**about, "told_apart": sum(found) / len(found), "documents": len(found)}


def _nearest(router: DomainRouter, material: Material, text: str) -> int:
    """The domain with the most evidence in a document's first tokens."""
    ids = material.base.text.plain(text)[:PROMPT]
    x_BTD = material.rows_VD[torch.tensor([ids[0], *ids])][None]  # the first stands for an opener
    evidence_BTE, _ = router.evidence(x_BTD, Memory.of(x_BTD))
    return int(evidence_BTE[0, -1].argmax())


def _about(material: Material, case: Case, made: Given, seed: int) -> dict[str, Any]:
    about = {"model": material.name, "seed": seed, "case": case.name, **asdict(case)}
    return about | {"passages": made.passages}


def measured(
    material: Material, seeds: Sequence[int], out: Path, console: Console
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of both tables, named words and domains; finished rows are read from files."""
    words: list[dict[str, Any]] = []
    domains: list[dict[str, Any]] = []
    general_V, done = material.counts(material.general), out / "done"
    for seed in seeds:
        for domain in list(material.texts)[:ATTACKED]:
            priors = {
                GENERAL: general_V,
                "domain": material.counts(material.divided(domain, seed)[1]),
            }
            for case in CASES:
                make = functools.partial(named, material, case, domain, seed, priors)
                label = f"{material.name}-{seed}-{case.name}-{domain}"
                words += kept(done / f"{label}.json", make, console.print)
        for case in CASES:
            make_one = functools.partial(told_apart, material, case, seed)
            label = f"{material.name}-{seed}-{case.name}-told-apart"
            domains.append(kept(done / f"{label}.json", make_one, console.print))
    return words, domains


def run(
    *,
    out: Path,
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    engine: str = "local",  # noqa: ARG001 - all in this process
    settings: Sequence[str] = (),
    results_in: Path | None = None,
    console: Console,
) -> Path:
    """Run what is missing and write `embedding-inversion.json`; returns its path."""
    if settings:
        raise ConfigError("embedding-inversion has no settings; --set is for other studies")
    material = tiny(out / "tiny") if quick else smollm()
    words, domains = measured(material, seeds or (SEEDS[:1] if quick else SEEDS), out, console)
    found = [*table(words, ("domain", "known"), WORDS), *table(domains, (), ("told_apart",))]
    for line in found:
        console.print("  ".join(f"{key} {value}" for key, value in line.items()))
    seeds_done = sorted({row["seed"] for row in words})
    path = (results_in or out) / "embedding-inversion.json"
    return write(
        path, {"seeds": seeds_done, "summary": found, "named": words, "told_apart": domains}
    )
