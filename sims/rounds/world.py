"""What a study of rounds runs on: a base, owners' texts, held-out text, and bits per byte."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmore.experts.base import Base, linear_shapes, load_base
from fedmore.experts.evaluate import interval, mean_bits_per_byte, score
from fedmore.experts.factors import Factors
from fedmore.experts.intervals import Interval
from fedmore.experts.lowrank import with_change
from fedmore.experts.spec import Shapes
from fedmore.sims.data.generated import generate_text
from fedmore.sims.data.texts import TextFiles, read_documents
from fedmore.sims.tiny import make_tiny_base

Texts = Mapping[str, tuple[list[str], list[str]]]  # name -> training and held-out documents


@dataclass(frozen=True)
class World:
    """A base and texts; `length` tokens a window, `batch` windows a step."""

    name: str
    base: Base
    shapes: Shapes
    texts: Texts
    length: int
    batch: int

    def score(self, change: Factors | None, texts: Sequence[str]) -> float:
        """Bits per byte of the held-out documents of some texts under a change of the base."""
        model = self.base.model if change is None else with_change(self.base.model, change)
        documents = [text for name in texts for text in self.texts[name][1]]
        return mean_bits_per_byte(score(model, self.base.text, documents, 192))

    def interval(self, change: Factors | None, texts: Sequence[str]) -> Interval | None:
        """95 % interval over documents of `score`."""
        model = self.base.model if change is None else with_change(self.base.model, change)
        documents = [text for name in texts for text in self.texts[name][1]]
        return interval(score(model, self.base.text, documents, 192))

    def windows(self, documents: Sequence[str], steps: int, seed: int) -> Tensor:
        """Training windows [steps * batch, length + 1], drawn anywhere in the shuffled text."""
        count = steps * self.batch
        order = random.Random(seed).sample(list(documents), len(documents))
        ids = [i for text in order for i in self.base.tokenizer(text)["input_ids"]]
        ids *= 1 + (self.length + 2) // len(ids)
        flat, generator = torch.tensor(ids), torch.Generator().manual_seed(seed)
        starts = torch.randint(0, len(flat) - self.length, (count,), generator=generator)
        return torch.stack([flat[at : at + self.length + 1] for at in starts.tolist()])


def tiny_world(folder: Path, seed: int, steps: int = 300) -> World:
    """A byte model of 0.3M parameters, pretrained on plain English, and generated text."""
    names = ("kitchen", "garden", "sums", "foreign", "plain")
    texts = {name: _read(generate_text(name, folder / name)) for name in names}
    path = folder / f"base-{seed}-{steps}"
    if not (path / "done").is_file():
        make_tiny_base(path, seed)
        _pretrain(path, texts["plain"][0], steps, seed)
        (path / "done").touch()
    base = load_base(str(path), "float32")
    return World("tiny", base, linear_shapes(str(path)), texts, 64, 4)


def smollm_world(_folder: Path, _seed: int, _steps: int = 0) -> World:
    """SmolLM2-135M-Instruct over the demo's legal, medical and Galician text."""
    from fedmore.sims.base import ensure_base
    from fedmore.sims.data.texts import ensure_text

    path = str(ensure_base())
    texts = {name: _read(ensure_text(name), 12) for name in ("legal", "medical", "gl")}
    return World("smollm2", load_base(path, "auto"), linear_shapes(path), texts, 128, 4)


def _read(files: TextFiles, limit: int | None = None) -> tuple[list[str], list[str]]:
    train, heldout = (
        [item.text for item in read_documents(path)] for path in (files.train, files.heldout)
    )
    return train, heldout[:limit]


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
