"""The change of every target module of an expert, and its flat form for the wire.

The change of a matrix is the product of its factors: two of low rank, (B, A), or a single one, the
full-size matrix (D,). So what goes factor by factor is the same for both.

Shape suffixes: a_RI (rank x in), b_OR (out x rank), d_OI (out x in).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fedmore.experts.ranks import FULL
from fedmore.experts.spec import ExpertSpec, Scale, TargetModule, scale_at
from fedmore.kernels.grouped_lowrank import factors as kernel

Change = kernel.DenseChange  # (B, A), or D [out, in] alone
KeptChange = kernel.Change  # the same, but some factors may be stored as sign1
LowRank = tuple[Tensor, Tensor]  # B [out, R], A [R, in]
Factors = dict[str, Change]  # site path -> (B, A) or (D [out, in],), float32
Kept = Mapping[str, KeptChange]  # the same, but some may be stored as sign1

WHOLE = -2
"""In place of a rank: the change is a full-size matrix. A rank of 0 is a change that is nothing."""

NAMES = {1: ("D",), 2: ("A", "B")}
"""Names of a change's factors in files, in wire order, by their number."""


def initial(spec: ExpertSpec, sites: Sequence[TargetModule], seed: int) -> Factors:
    """Initialise for training: A uniform as in LoRA (Kaiming, a = sqrt 5), B zero; D zero.

    The factors depend only on the spec's name, its ranks and the seed. So coordinator and clients
    make the same factors without sending them.
    """
    generator = torch.Generator().manual_seed(seed_of(spec.name, spec.rank, seed))
    factors: Factors = {}
    for site in sites:
        rank = spec.rank_of(site.path)
        if rank == FULL:
            factors[site.path] = (torch.zeros(site.out_features, site.in_features),)
            continue
        a_RI = (
            torch.rand(rank, site.in_features, generator=generator) * 2 - 1
        ) / site.in_features**0.5
        factors[site.path] = (torch.zeros(site.out_features, rank), a_RI)
    return factors


def seed_of(*parts: object) -> int:
    """Hash the parts to a seed below 2^56."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def tensors(factors: Factors, sites: Sequence[TargetModule]) -> list[Tensor]:
    """The factors in wire order: A, then B, or D alone, for every site."""
    return [tensor for site in sites for tensor in reversed(factors[site.path])]


def shapes(sites: Sequence[TargetModule], ranks: Mapping[str, int]) -> list[tuple[int, int]]:
    """Shapes of `tensors` for the given ranks, which may be `WHOLE`."""
    return [shape for site in sites for shape in shapes_at(site, ranks[site.path])]


def shapes_at(site: TargetModule, rank: int) -> list[tuple[int, int]]:
    """Shapes in wire order of a change of `rank`, which may be `WHOLE`, at one site."""
    if rank == WHOLE:
        return [(site.out_features, site.in_features)]
    return [(rank, site.in_features), (site.out_features, rank)]


def size_at(site: TargetModule, rank: int) -> int:
    """Number of elements of a change of `rank`, which may be `WHOLE`, at one site."""
    return sum(rows * columns for rows, columns in shapes_at(site, rank))


def directions_at(site: TargetModule, rank: int) -> int:
    """How many directions a change of `rank`, which may be `WHOLE`, has at most at one site."""
    return min(site.out_features, site.in_features) if rank == WHOLE else rank


def roles(sites: Sequence[TargetModule], ranks: Mapping[str, int]) -> list[str]:
    """What each of `tensors` is for the policy that chooses its codec."""
    pairs = (["matrix"] if ranks[s.path] == WHOLE else ["factor_a", "factor_b"] for s in sites)
    return [role for pair in pairs for role in pair]


def asked_ranks(spec: ExpertSpec, sites: Sequence[TargetModule]) -> dict[str, int]:
    """The rank that an owner trains at every site, `WHOLE` for a full-size matrix."""
    return {site.path: spec.rank_of(site.path) or WHOLE for site in sites}


def from_tensors(
    flat: Iterable[Tensor], sites: Sequence[TargetModule], ranks: Mapping[str, int] | None = None
) -> Factors:
    """The inverse of `tensors`; raises `ValueError` for too few or too many.

    `ranks` tells which sites are `WHOLE`; without it every change is of low rank.
    """
    items, found = list(flat), Factors()
    for site in reversed(sites):
        count = 1 if ranks and ranks[site.path] == WHOLE else 2
        if len(items) < count:
            raise ValueError("too few tensors for the sites")
        found[site.path] = (items.pop(),) if count == 1 else (items.pop(), items.pop())
    if items:
        raise ValueError("more tensors than the sites have")
    return {site.path: found[site.path] for site in sites}


def ranks(factors: Factors) -> dict[str, int]:
    """The rank of every site, `WHOLE` for a full-size matrix."""
    return {path: rank_at(change) for path, change in factors.items()}


def rank_at(change: KeptChange) -> int:
    """The rank of one change, `WHOLE` for a full-size matrix."""
    return WHOLE if len(change) == 1 else change[1].shape[0]


def highest_rank(factors: Kept) -> int:
    """The largest rank of all low-rank changes; 0 if there is none."""
    return max((max(rank_at(change), 0) for change in factors.values()), default=0)


def is_full(factors: Kept) -> bool:
    """Whether a matrix of it is changed by a full-size one."""
    return any(len(change) == 1 for change in factors.values())


def is_nothing(change: Change) -> bool:
    """Whether a change has no direction, or is a full-size matrix of zeros."""
    return not (change[0].any() if len(change) == 1 else change[1].shape[0])


def mapped(factors: Factors, change: Callable[..., Tensor], *others: Factors) -> Factors:
    """Factors made one by one of those of `factors` and, at the same place, of `others`."""
    found: Factors = {}
    for path, one in factors.items():
        made = [change(*each) for each in zip(one, *(o[path] for o in others), strict=True)]
        found[path] = (made[0],) if len(made) == 1 else (made[0], made[1])
    return found


def single(product: Change) -> Change:
    """One change in float32."""
    if len(product) == 1:
        return (product[0].float(),)
    return product[0].float(), product[1].float()


def times(factors: Factors, weight: Scale) -> Factors:
    """The change times `weight`, which may differ by module path."""
    found: Factors = {}
    for path, change in factors.items():
        first = scale_at(weight, path) * change[0]
        found[path] = (first,) if len(change) == 1 else (first, change[1])
    return found


def difference(new: Factors, old: Factors) -> Factors:
    """``new - old``, factor by factor: the change that is sent, not a change of the product."""
    return mapped(new, torch.sub, old)


def total(old: Factors, change: Factors) -> Factors:
    """``old + change``, factor by factor: the inverse of `difference`."""
    return mapped(old, torch.add, change)


def zeros(factors: Factors) -> Factors:
    """Zeros of the same shapes."""
    return mapped(factors, torch.zeros_like)


def num_parameters(factors: Kept) -> int:
    """Number of elements of all factors."""
    return sum(factor.numel() for change in factors.values() for factor in change)


def empty(sites: Sequence[TargetModule]) -> Factors:
    """Factors of rank 0, which change nothing."""
    return {s.path: (torch.zeros(s.out_features, 0), torch.zeros(0, s.in_features)) for s in sites}


def to_state(factors: Factors) -> dict[str, Tensor]:
    """Contiguous tensors `{path.A, path.B}` or `{path.D}` for a safetensors file."""
    out = {}
    for path, change in factors.items():
        for name, factor in zip(NAMES[len(change)], reversed(change), strict=True):
            out[f"{path}.{name}"] = factor.float().contiguous()
    return out


def from_state(state: Mapping[str, Tensor]) -> Factors:
    """The inverse of `to_state`."""
    found: Factors = {}
    for key, factor in state.items():
        path, _, name = key.rpartition(".")
        if name == "D":
            found[path] = (factor,)
        elif name == "A":
            found[path] = (state[f"{path}.B"], factor)
    return found
