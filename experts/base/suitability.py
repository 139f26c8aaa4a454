"""Finds what can be trained in a base, from its configuration and the headers of its weight files.

No weights are read, so `init`, `preflight` and `join` can report it before any other work.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedmore.experts.base.blocks import Parts, parts_of
from fedmore.experts.base.files import Stamp, check_folder, folder_of, stamp_of
from fedmore.experts.base.loading import read_model
from fedmore.experts.base.parts import check_vocabulary, tokenizer_of
from fedmore.experts.errors import BaseError

Kind = Literal["expert", "adapter"]


@dataclass(frozen=True)
class Suitability:
    """A base without its weights: `model` is on the meta device."""

    name: str
    family: str
    model: Any
    parts: Parts

    def why_not(self, kind: Kind) -> str:
        """Why no change of this kind can be trained, in one line; empty if one can."""
        no_ffn, no_attention = self.parts.no_ffn, self.parts.no_attention
        if not no_ffn or (kind == "adapter" and not no_attention):
            return ""
        if kind == "expert":
            fits = "" if no_attention else "; a language adapter fits, in the attention alone"
            return f"no expert fits {self.family}: {no_ffn}{fits}"
        reasons = dict.fromkeys((no_ffn, no_attention))
        return f"no adapter fits {self.family}: {'; '.join(reasons)}"

    def reach(self, kind: Kind) -> str:
        """Name a part that a change of this kind should cover but cannot; empty for most bases."""
        if kind == "expert" or self.why_not(kind):
            return ""
        if self.parts.no_ffn:
            return f"an adapter of {self.family} changes the attention alone: {self.parts.no_ffn}"
        if self.parts.no_attention:
            return f"an adapter of {self.family} changes the FFN alone: {self.parts.no_attention}"
        return ""

    def check(self, kind: Kind) -> None:
        """Raise `BaseError` if no change of this kind can be trained."""
        if why := self.why_not(kind):
            raise BaseError(f"base {self.name!r}: {why}")


def kind_of(kind: str) -> Kind:
    """Check the name of a kind; raises `ValueError` for an unknown one."""
    if kind not in ("expert", "adapter"):
        raise ValueError(f"{kind!r} is neither expert nor adapter")
    return "expert" if kind == "expert" else "adapter"


def suitability(name: str) -> Suitability:
    """Look at a base by path or hub name.

    Raises `BaseError` if it is missing or incomplete, of an unknown family, or has a tokenizer that
    does not belong to it.
    """
    folder = folder_of(name)
    return _look(name, folder, stamp_of(folder))


@functools.lru_cache(maxsize=4)
def _look(name: str, folder: Path, _stamp: Stamp) -> Suitability:
    check_folder(name, folder)
    model = read_model(name, folder)
    check_vocabulary(name, tokenizer_of(folder), model.get_input_embeddings().weight.shape[0])
    return Suitability(name, str(model.config.model_type), model, parts_of(model))


def linear_shapes(name: str) -> dict[str, tuple[int, int]]:
    """`{module path: (out, in)}` of the layers that can be changed; loads no weights."""
    return dict(suitability(name).parts.shapes)
