"""Specifies a domain expert or a language adapter, and the matrices that it changes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from fedmore.experts.errors import ConfigError, RankError

FFN_PARENTS = ("mlp", "feed_forward", "ffn", "mlp_block")
"""Names that blocks give their FFN."""

_PATH = re.compile(r"(?:^|.*\.)(?:layers|h|blocks)\.(\d+)\.([\w.]+)\.\w+$")

Shapes = Mapping[str, tuple[int, int]]  # module path -> (out, in)


class ExpertStorage(StrEnum):
    """How a mixture stores its experts: as float32, or one bit per number (`kernels/sign1`)."""

    fp32 = "fp32"
    sign1 = "sign1"


@dataclass(frozen=True)
class TargetModule:
    """One matrix that an expert changes: module path and its (out, in) shape."""

    path: str
    out_features: int
    in_features: int


def alpha_of(scaling: str, rank: int) -> float | None:
    """The alpha for which ``alpha / rank`` is 2, or with "rslora" ``2 sqrt(8 / rank)``."""
    return 2.0 * (8 * rank) ** 0.5 if scaling == "rslora" else None


@dataclass(frozen=True)
class ExpertSpec:
    """A named change of rank `rank` in some layers.

    A domain *expert* changes the FFN of every layer (FlexMoRE, arXiv 2602.08818); a language
    *adapter* changes all linear layers of the first and last blocks (LayRA, arXiv 2509.11414).
    The change of a matrix is ``scale * B A`` with ``scale = alpha / rank``.
    """

    name: str
    kind: Literal["expert", "adapter"]
    target: str
    rank: int
    first_layers: int = 10
    last_layers: int = 2
    alpha: float | None = None

    def __post_init__(self) -> None:
        """Raise `RankError` for a rank below 1."""
        if self.rank < 1:
            raise RankError(f"rank of {self.name} must be 1 or more, not {self.rank}")

    @property
    def scale(self) -> float:
        """``alpha / rank``; by default alpha is twice the rank, as in LayRA (8 and 16)."""
        return 2.0 if self.alpha is None else self.alpha / self.rank

    def sites(self, shapes: Shapes) -> tuple[TargetModule, ...]:
        """The matrices that this expert changes, in the base's order.

        Raises `RankError` if the rank is too large for one of them, and `ConfigError` if the base
        has no such matrices.
        """
        layers = self._layers(depth(shapes))
        if not layers and depth(shapes):
            raise ConfigError(
                f"{self.name}: first_layers and last_layers are both 0, so the adapter changes no "
                "layer; set one of them above 0"
            )
        found = []
        for path, (out, inner) in shapes.items():
            match = _PATH.match(path)
            if match and int(match[1]) in layers and (self.kind == "adapter" or in_ffn(path)):
                found.append(TargetModule(path, out, inner))
        if not found:
            part = "FFN" if self.kind == "expert" else "linear layers of blocks"
            raise ConfigError(f"{self.name}: the base has no {part} that can be changed")
        self._check_rank(found)
        return tuple(found)

    def _layers(self, count: int) -> set[int]:
        if self.kind == "expert":
            return set(range(count))
        first = set(range(min(self.first_layers, count)))
        return first | set(range(max(count - self.last_layers, 0), count))

    def _check_rank(self, sites: list[TargetModule]) -> None:
        smallest = min(sites, key=lambda site: min(site.out_features, site.in_features))
        limit = min(smallest.out_features, smallest.in_features)
        if self.rank > limit:
            raise RankError(
                f"rank {self.rank} of {self.name}: {smallest.path} is {smallest.out_features} x "
                f"{smallest.in_features} and allows at most {limit}; ask for a lower --rank"
            )


def depth(shapes: Shapes) -> int:
    """Number of blocks of the base."""
    return 1 + max((int(m[1]) for m in map(_PATH.match, shapes) if m), default=-1)


def in_ffn(path: str) -> bool:
    """Whether the module at `path` is a linear layer of a block's FFN."""
    match = _PATH.match(path)
    return match is not None and match[2] in FFN_PARENTS


def layer_of(path: str) -> int:
    """Index of the block that the module at `path` is part of."""
    match = _PATH.match(path)
    if match is None:
        raise ConfigError(f"{path} is not a linear layer of a block")
    return int(match[1])
