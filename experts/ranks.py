"""The grammar of `--rank`: one rank for all matrices, or a pattern by layer and projection.

A pattern is a list of parts with commas between them, and later parts win::

    part       := [layers ":"] [projection "="] value
    layers     := N | N-M                            both ends count, from 0
    projection := ffn | attention | gate | up | down | q | k | v | o | the base's own name
    value      := a positive integer | full

So `16` is rank 16 everywhere, `gate=8,up=8,down=32` differs by projection, `0-9:4,10-29:16` by
layer, and `16,down=full` changes every down projection in full size.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from fedmore.experts.errors import RankError

FULL = 0
"""In place of a rank: the change of this matrix is a matrix of the same size."""

LONGEST = 256
"""Most characters of a pattern."""

GROUPS = {"ffn": True, "attention": False}
"""Projections that stand for several; the value says whether they are of the FFN."""

ALLOWED = "a part is a rank as in 16, full, gate=8, 0-9:4 or 0-9:down=32"

_PART = re.compile(r"(?:(\d{1,6})(?:-(\d{1,6}))?:)?(?:([a-z_]\w*)=)?(full|\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Part:
    """One part of a pattern: the rank of some matrices; `layers` None means all of them."""

    rank: int
    projection: str = ""
    layers: tuple[int, int] | None = None

    def covers(self, layer: int, name: str, ffn: bool) -> bool:
        """Whether the part is about the matrix `name` of a block; `ffn` if it is of the FFN."""
        if self.layers is not None and not self.layers[0] <= layer <= self.layers[1]:
            return False
        if self.projection in GROUPS:
            return GROUPS[self.projection] == ffn
        return self.projection in ("", name, short(name))

    def __str__(self) -> str:
        first, last = self.layers or (0, 0)
        layers = "" if self.layers is None else f"{first}:" if first == last else f"{first}-{last}:"
        projection = f"{self.projection}=" if self.projection else ""
        return f"{layers}{projection}{self.rank or 'full'}"


@dataclass(frozen=True)
class RankPattern:
    """The ranks of an expert's matrices, by layer and projection."""

    parts: tuple[Part, ...]

    @property
    def largest(self) -> int:
        """The largest low rank in the pattern; 0 if every part is full size."""
        return max(part.rank for part in self.parts)

    @property
    def uniform(self) -> bool:
        """Whether it is one low rank for every matrix."""
        only = self.parts[-1]
        return only.rank != FULL and not only.projection and only.layers is None

    def rank_of(self, layer: int, name: str, ffn: bool) -> int:
        """The rank of the matrix `name` of a block, or `FULL`; raises `RankError` if unsaid."""
        for part in reversed(self.parts):
            if part.covers(layer, name, ffn):
                return part.rank
        raise RankError(
            f"--rank {self}: it says nothing of {name} in layer {layer}; begin it with the rank "
            f"of all other matrices, as in 16,{self}"
        )

    def check(self, layers: int, matrices: Iterable[tuple[str, bool]]) -> None:
        """Raise `RankError` for a layer or a projection that is not there to be changed.

        `layers` is how many the base has; `matrices` are the names in one block that can be
        changed, each with whether it is of the FFN.
        """
        known = sorted(set(matrices))
        for part in self.parts:
            if part.layers is not None and part.layers[1] >= layers:
                raise RankError(
                    f"--rank {self}: {str(part)!r} names layer {part.layers[1]}, and the base has "
                    f"{layers} layers, 0 to {layers - 1}"
                )
            anywhere = Part(part.rank, part.projection)
            if not any(anywhere.covers(0, name, ffn) for name, ffn in known):
                raise RankError(
                    f"--rank {self}: {str(part)!r} names {part.projection}, and what is changed of "
                    f"this base is {', '.join(short(name) for name, _ in known)}"
                )

    def __str__(self) -> str:
        return ",".join(map(str, self.parts))


def short(name: str) -> str:
    """The name of a projection as a pattern gives it: `gate` for gate_proj."""
    return name.removesuffix("_proj")


@functools.lru_cache(maxsize=256)
def parse_ranks(text: str) -> RankPattern:
    """The pattern in `text`; raises `RankError`, which names the wrong part."""
    if len(text) > LONGEST:
        raise RankError(f"--rank: a pattern has at most {LONGEST} characters, not {len(text)}")
    return RankPattern(tuple(_part(part.strip(), text) for part in text.split(",")))


def _part(text: str, whole: str) -> Part:
    found = _PART.fullmatch(text)
    if found is None:
        raise RankError(f"--rank {whole!a}: {text!a} is not a rank; {ALLOWED}")
    first, last, projection, value = found.groups()
    rank = FULL if value == "full" else int(value)
    if value != "full" and rank < 1:
        raise RankError(f"--rank {whole}: {text!r} gives a rank of {rank}; it must be 1 or more")
    layers = None if first is None else (int(first), int(last or first))
    if layers is not None and layers[0] > layers[1]:
        raise RankError(f"--rank {whole}: {text!r} ends before it begins; {ALLOWED}")
    return Part(rank, projection or "", layers)


def chosen(said: int | str) -> tuple[int, str]:
    """What `--rank` chooses: the largest low rank, and the pattern if there is more than that."""
    pattern = parse_ranks(str(said))
    return (pattern.parts[-1].rank, "") if pattern.uniform else (pattern.largest, str(pattern))


def check_largest(rank: int, ranks: str) -> None:
    """Raise `RankError` unless `rank` is the largest low rank of the pattern, if one is given."""
    if ranks and (largest := parse_ranks(ranks).largest) != rank:
        raise RankError(f"the largest rank of {ranks} is {largest}, not {rank}")


def described(rank: int, ranks: str) -> str:
    """The rank as it is shown: the pattern if there is one."""
    return ranks or str(rank)
