"""Low-rank factors of every target module of an expert, and their flat form for the wire.

Shape suffixes: a_RI (rank x in), b_OR (out x rank).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fedmore.experts.spec import ExpertSpec, TargetModule
from fedmore.kernels.grouped_lowrank.factors import Factor

Factors = dict[str, tuple[Tensor, Tensor]]  # site path -> (B [out, R], A [R, in]), float32
Kept = Mapping[str, tuple[Factor, Factor]]  # the same, but some may be stored as sign1


def initial(spec: ExpertSpec, sites: Sequence[TargetModule], seed: int) -> Factors:
    """Initialise for training: A uniform as in LoRA (Kaiming, a = sqrt 5), B zero.

    The factors depend only on the spec's name, its ranks and the seed. So coordinator and clients
    make the same factors without sending them.
    """
    generator = torch.Generator().manual_seed(seed_of(spec.name, spec.rank, seed))
    factors: Factors = {}
    for site in sites:
        rank = spec.rank_of(site.path)
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
    """The factors in wire order: A, then B, for every site."""
    return [tensor for site in sites for tensor in reversed(factors[site.path])]


def shapes(sites: Sequence[TargetModule], ranks: Mapping[str, int]) -> list[tuple[int, int]]:
    """Shapes of `tensors` for the given ranks."""
    pairs = (((ranks[s.path], s.in_features), (s.out_features, ranks[s.path])) for s in sites)
    return [shape for pair in pairs for shape in pair]


def from_tensors(flat: Iterable[Tensor], sites: Sequence[TargetModule]) -> Factors:
    """The inverse of `tensors`."""
    items = iter(flat)
    return {
        site.path: (b, a)
        for site, (a, b) in zip(sites, zip(items, items, strict=True), strict=True)
    }


def ranks(factors: Factors) -> dict[str, int]:
    """The rank of every site."""
    return {path: a.shape[0] for path, (_, a) in factors.items()}


def difference(new: Factors, old: Factors) -> Factors:
    """``new - old``, factor by factor: the change that is sent, not a change of the product."""
    return {path: (b - old[path][0], a - old[path][1]) for path, (b, a) in new.items()}


def total(old: Factors, change: Factors) -> Factors:
    """``old + change``, factor by factor: the inverse of `difference`."""
    return {path: (b + change[path][0], a + change[path][1]) for path, (b, a) in old.items()}


def zeros(factors: Factors) -> Factors:
    """Zeros of the same shapes."""
    return {path: (torch.zeros_like(b), torch.zeros_like(a)) for path, (b, a) in factors.items()}


def num_parameters(factors: Kept) -> int:
    """Number of elements of all factors."""
    return sum(b.numel() + a.numel() for b, a in factors.values())


def empty(sites: Sequence[TargetModule]) -> Factors:
    """Factors of rank 0, which change nothing."""
    return {s.path: (torch.zeros(s.out_features, 0), torch.zeros(0, s.in_features)) for s in sites}


def to_state(factors: Factors) -> dict[str, Tensor]:
    """Contiguous tensors `{path.A, path.B}` for a safetensors file."""
    out = {}
    for path, (b, a) in factors.items():
        out[f"{path}.A"], out[f"{path}.B"] = a.float().contiguous(), b.float().contiguous()
    return out


def from_state(state: Mapping[str, Tensor]) -> Factors:
    """The inverse of `to_state`."""
    paths = [key[:-2] for key in state if key.endswith(".A")]
    return {path: (state[f"{path}.B"], state[f"{path}.A"]) for path in paths}
