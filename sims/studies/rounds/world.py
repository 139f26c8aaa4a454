"""What a study of rounds runs on: a base, owners' texts, held-out text, and bits per byte."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmore.experts.base.model import Base, linear_shapes, load_base
from fedmore.experts.factors import Factors
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.scoring.bits_per_byte import Score, interval, mean_bits_per_byte, score
from fedmore.experts.scoring.intervals import Interval
from fedmore.experts.spec import Shapes
from fedmore.sims.data.generated import generate_text
from fedmore.sims.data.texts import RECIPE, TextFiles, ensure_text, read_documents
from fedmore.sims.data.tiny_model import make_tiny_base

Texts = Mapping[str, tuple[list[str], list[str]]]  # name -> training and held-out documents

REAL = ("legal", "medical", "galician", "code")
GENERATED = ("kitchen", "garden", "sums", "foreign")
TRAINED, HELD_OUT = 300, 12  # documents of each text


@dataclass(frozen=True)
class World:
    """A base and texts.

    A training window has `length` tokens, and a step `batch` windows. Held-out documents are
    scored on their first `scored` tokens.
    """

    name: str
    base: Base
    shapes: Shapes
    texts: Texts
    length: int
    batch: int
    scored: int = 192
    encoded: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    of_base: dict[tuple[str, ...], float] = field(default_factory=dict, compare=False, repr=False)

    def scores(self, change: Factors | None, texts: Sequence[str]) -> list[Score]:
        """Every held-out document of some texts, scored under a change of the base."""
        model = self.base.model if change is None else with_change(self.base.model, change)
        documents = [text for name in texts for text in self.texts[name][1]]
        return score(model, self.base.text, documents, self.scored)

    def score(self, change: Factors | None, texts: Sequence[str]) -> float:
        """Bits per byte of the held-out documents of some texts under a change of the base."""
        return mean_bits_per_byte(self.scores(change, texts))

    def base_score(self, texts: Sequence[str]) -> float:
        """`score` of the base alone, which is computed once."""
        names = tuple(texts)
        if names not in self.of_base:
            self.of_base[names] = self.score(None, names)
        return self.of_base[names]

    def scored_with_interval(
        self, change: Factors | None, texts: Sequence[str]
    ) -> tuple[float, Interval | None]:
        """`score`, and its 95 % interval over documents."""
        found = self.scores(change, texts)
        return mean_bits_per_byte(found), interval(found)

    def windows(self, documents: Sequence[str], steps: int, seed: int) -> Tensor:
        """Training windows [steps * batch, length + 1], drawn anywhere in the shuffled text."""
        count = steps * self.batch
        order = random.Random(seed).sample(list(documents), len(documents))
        flat = torch.cat([self._ids(text) for text in order])
        flat = flat.repeat(1 + (self.length + 2) // len(flat))
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(0, len(flat) - self.length, (count,), generator=generator)
        return torch.stack([flat[at : at + self.length + 1] for at in starts.tolist()])

    def _ids(self, text: str) -> Tensor:
        if text not in self.encoded:
            self.encoded[text] = torch.tensor(self.base.tokenizer(text)["input_ids"])
        return self.encoded[text]


def tiny_world(folder: Path, seed: int, *, real: bool = True, steps: int = 300) -> World:
    """A byte model of four layers, pretrained on plain English, and four unlike texts.

    The texts are those of the demo; with `real` off they are generated, which needs no package.
    """
    texts = {name: _text(name, folder, real=real) for name in (REAL if real else GENERATED)}
    path = folder / f"base-{seed}-{steps}-{f'real-{RECIPE}' if real else 'generated'}"
    if not (path / "done").is_file():
        make_tiny_base(path, seed, layers=4)
        _pretrain(path, _text("plain", folder, real=real)[0], steps, seed)
        (path / "done").touch()
    base = load_base(str(path), "float32")
    return World("tiny", base, linear_shapes(str(path)), texts, 64, 4)


def smollm_world() -> World:
    """SmolLM2-135M-Instruct over the demo's legal, medical and Galician text, in short windows."""
    from fedmore.sims.data.base_model import ensure_base

    path = str(ensure_base())
    texts = {name: _text(name, Path(), real=True) for name in REAL[:3]}
    return World("smollm2", load_base(path, "float32"), linear_shapes(path), texts, 64, 2, 96)


def _text(name: str, folder: Path, *, real: bool) -> tuple[list[str], list[str]]:
    files: TextFiles = ensure_text(name) if real else generate_text(name, folder / name)
    train, heldout = (
        [item.text for item in read_documents(path)] for path in (files.train, files.heldout)
    )
    return train[:TRAINED], heldout[:HELD_OUT]


def _pretrain(path: Path, documents: Sequence[str], steps: int, seed: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(path)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    flat = torch.tensor([i for text in documents for i in tokenizer(text)["input_ids"]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(0, len(flat) - 64, (8,), generator=generator).tolist()
        batch = torch.stack([flat[at : at + 65] for at in starts])
        logits = model(input_ids=batch[:, :-1]).logits
        loss = cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(path)
