"""The study's material: a base's embeddings, owners' text, and the attacker's text."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.client.training.embedding import clip_norm, noised_mean
from fedmore.experts.base.model import Base, load_base
from fedmore.experts.text.passages import Passage, passages
from fedmore.sims.data.generated import generate_text
from fedmore.sims.data.texts import TextFiles, ensure_text, read_documents
from fedmore.sims.data.tiny_model import make_tiny_base

GENERAL = "general"
"""The name of the text that every attacker has."""


@dataclass(frozen=True)
class Material:
    """A base, documents by domain (training, held out) and the general text."""

    name: str
    base: Base
    rows_VD: Tensor
    texts: Mapping[str, tuple[list[str], list[str]]]
    general: list[str]

    def counts(self, documents: Sequence[str]) -> Tensor:
        """Counts of every token in documents, float64 [V]."""
        ids = [i for text in documents for i in self.base.text.plain(text)]
        return torch.bincount(torch.tensor(ids), minlength=len(self.rows_VD)).double()

    def divided(self, name: str, seed: int) -> tuple[list[str], list[str]]:
        """Divide a domain's documents between the owner and the attacker."""
        documents = self.texts[name][0]
        drawn = random.Random(f"{name}/{seed}").sample(documents, len(documents))
        at = len(drawn) * 5 // 8
        return drawn[:at], drawn[at:]


@dataclass(frozen=True)
class Given:
    """An embedding as an owner sends it, its noise, and the true counts."""

    mean_D: Tensor
    noise: float
    truth_V: Tensor
    passages: int


def given(
    material: Material, documents: Sequence[str], shape: tuple[int, int], rules: OwnerPolicy,
    seed: int,
) -> Given:  # fmt: skip
    """Compute an embedding with the client's own code; `shape` is (passages, tokens of each)."""
    found = passages(documents, material.base.text, *shape, seed)
    means_PD = torch.stack([_mean(material.rows_VD, each) for each in found])
    mean_D, _ = noised_mean(means_PD, material.rows_VD, rules, seed + 1)
    ids = torch.tensor([i for each in found for i in each.ids])
    truth_V = torch.bincount(ids, minlength=len(material.rows_VD)).double()
    noise = rules.embedding_noise * clip_norm(material.rows_VD, rules) / len(found)
    return Given(mean_D, noise, truth_V, len(found))


def _mean(rows_VD: Tensor, passage: Passage) -> Tensor:
    return rows_VD[torch.tensor(passage.ids)].double().mean(0)


def smollm() -> Material:
    """SmolLM2-135M-Instruct with medical and legal text.

    The general text is interfaces and code.
    """
    from fedmore.sims.data.base_model import ensure_base

    base = load_base(str(ensure_base()), "auto")
    texts = {name: _read(ensure_text(name)) for name in ("medical", "legal", "galician")}
    code = random.Random(0).sample(_read(ensure_text("code"))[0], 200)
    return _material("smollm2", base, texts, [*_read(ensure_text("plain"))[0], *code])


def tiny(folder: Path) -> Material:
    """A byte model of 0.3M parameters with generated text."""
    base = load_base(str(make_tiny_base(folder / "base")), "float32")
    texts = {n: _read(generate_text(n, folder / n)) for n in ("kitchen", "garden", "foreign")}
    return _material("tiny", base, texts, _read(generate_text("plain", folder / "plain"))[0])


def _material(
    name: str, base: Base, texts: Mapping[str, tuple[list[str], list[str]]], general: list[str]
) -> Material:
    rows_VD = base.model.get_input_embeddings().weight.detach().float().cpu()
    return Material(name, base, rows_VD, texts, general)


def _read(files: TextFiles) -> tuple[list[str], list[str]]:
    train, heldout = (
        [item.text for item in read_documents(path)] for path in (files.train, files.heldout)
    )
    return train, heldout
