"""Specifies a domain expert or a language adapter, and the matrices that it changes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from fedmore.experts.errors import ConfigError, RankError
from fedmore.experts.ranks import FULL, check_largest, parse_ranks

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


Scaling = Literal["constant", "rslora"]
Scale = float | Mapping[str, float]  # the s of a product: one for all matrices, or by module path


def rank_name(rank: int) -> str:
    """The rank of a version of an expert as people read it: a number, or `full`."""
    return "full" if rank == FULL else str(rank)


def scale_of_rank(scaling: str, rank: int) -> float:
    """The s of a product ``s B A`` of this rank: 2, or with "rslora" ``2 sqrt(8 / rank)``."""
    return 2.0 * (8 * rank) ** 0.5 / rank if scaling == "rslora" else 2.0


def scale_at(scale: Scale, path: str) -> float:
    """The s of the matrix at `path`."""
    return scale[path] if isinstance(scale, Mapping) else scale


def times(scale: Scale, factor: float) -> Scale:
    """Every s multiplied by `factor`."""
    if isinstance(scale, Mapping):
        return {path: factor * each for path, each in scale.items()}
    return factor * scale


@dataclass(frozen=True)
class ExpertSpec:
    """A named change of rank `rank` in some layers, or of the ranks that the pattern `ranks` says.

    A domain *expert* changes the FFN of every layer (FlexMoRE, arXiv 2602.08818); a language
    *adapter* changes all linear layers of the first and last blocks (LayRA, arXiv 2509.11414).
    The change of a matrix is ``s B A`` with s of its own rank, or a matrix D of its size where the
    rank is `FULL` (FlexOlmo, arXiv 2507.07024). With a pattern
    (`fedmore.experts.ranks`) `rank` is the largest low rank in it.
    """

    name: str
    kind: Literal["expert", "adapter"]
    target: str
    rank: int
    first_layers: int = 10
    last_layers: int = 2
    scaling: Scaling = "constant"
    ranks: str = ""

    def __post_init__(self) -> None:
        """Raise `RankError` for a rank below 1, or one that is not the pattern's largest."""
        check_largest(self.rank, self.ranks)
        if self.rank < 1 and not self.ranks:
            raise RankError(f"rank of {self.name} must be 1 or more, not {self.rank}")

    @property
    def scale(self) -> float:
        """The s of rank `rank`: 2 as in LayRA, whose alpha is twice the rank, or rsLoRA's."""
        return scale_of_rank(self.scaling, self.rank) if self.rank else 1.0

    def rank_of(self, path: str) -> int:
        """The rank of the matrix at `path`, or `FULL` if its change is of full size."""
        if not self.ranks:
            return self.rank
        return parse_ranks(self.ranks).rank_of(layer_of(path), _name_of(path), in_ffn(path))

    def scale_of(self, path: str) -> float:
        """The s of the matrix at `path`; 1 for a change of full size."""
        rank = self.rank_of(path)
        return 1.0 if rank == FULL else scale_of_rank(self.scaling, rank)

    def ranks_of(self, sites: Sequence[TargetModule]) -> dict[str, int]:
        """The rank of every one of `sites`."""
        return {site.path: self.rank_of(site.path) for site in sites}

    def scales(self, sites: Sequence[TargetModule]) -> Scale:
        """The s of every one of `sites`; one number if they have the same."""
        found = {site.path: self.scale_of(site.path) for site in sites}
        return found if len(set(found.values())) > 1 else next(iter(found.values()), self.scale)

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
            if match and int(match[1]) in layers and self._changes(path):
                found.append(TargetModule(path, out, inner))
        if not found:
            part = "FFN" if self.kind == "expert" else "linear layers of blocks"
            raise ConfigError(f"{self.name}: the base has no {part} that can be changed")
        self._check_pattern(shapes)
        self._check_rank(found)
        return tuple(found)

    def _layers(self, count: int) -> set[int]:
        if self.kind == "expert":
            return set(range(count))
        first = set(range(min(self.first_layers, count)))
        return first | set(range(max(count - self.last_layers, 0), count))

    def _check_rank(self, sites: list[TargetModule]) -> None:
        for site in sites:
            rank, limit = self.rank_of(site.path), min(site.out_features, site.in_features)
            if rank > limit:
                raise RankError(
                    f"rank {rank} of {self.name}: {site.path} is {site.out_features} x "
                    f"{site.in_features} and allows at most {limit}; ask for a lower --rank"
                )

    def _check_pattern(self, shapes: Shapes) -> None:
        """Raise `RankError` for a pattern that names what this base has not."""
        if self.ranks:
            paths = [path for path in shapes if self._changes(path)]
            names = [(_name_of(path), in_ffn(path)) for path in paths]
            parse_ranks(self.ranks).check(depth(shapes), names)

    def _changes(self, path: str) -> bool:
        """Whether this kind changes such a matrix, whatever the layer."""
        return _PATH.match(path) is not None and (self.kind == "adapter" or in_ffn(path))


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


def _name_of(path: str) -> str:
    return path.rpartition(".")[2]
