"""What an owner's answer changes, as a sum of low-rank products and of full-size matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedmore.experts import factors as low_rank
from fedmore.experts.factors import Change as Product
from fedmore.experts.factors import Factors
from fedmore.experts.spec import Scale, scale_at
from fedmore.kernels.lowrank_sum import cpu as delta
from fedmore.kernels.lowrank_sum.cpu import Term

COMMON = ""
"""In place of an owner's name: changes of rounds whose rule does not tell owners apart."""

Terms = dict[str, list[Term]]  # by module path; a sum for every matrix


@dataclass(frozen=True)
class Change:
    """An owner's factors before and after a round: a change of ``s (B' A' - B A)``.

    `size` is that of the owner's text, `scale` the s of its ranks, and `fresh` what is left of the
    weight of an answer that came late: 1 in time, ``staleness_decay^delay`` later.
    """

    client: str
    before: Factors
    after: Factors
    size: float = 1.0
    scale: Scale = 1.0
    fresh: float = 1.0

    def terms(self, weight: float = 1.0) -> Terms:
        """The change times `weight`; empty for a weight of 0."""
        return summed(
            product(self.after, weight, self.scale), product(self.before, -weight, self.scale)
        )


def product(factors: Mapping[str, Product], weight: float, scale: Scale = 1.0) -> Terms:
    """Factors as terms of this weight times their s, without those that are zero."""
    if not weight:
        return {}
    return {
        path: [delta.term(change, weight * scale_at(scale, path))]
        for path, change in factors.items()
        if bool(change[0].any())
    }


def summed(*sums: Mapping[str, Sequence[Term]]) -> Terms:
    """The terms of several sums together."""
    found: Terms = {}
    for each in sums:
        for path, terms in each.items():
            found.setdefault(path, []).extend(terms)
    return found


def times(terms: Mapping[str, Sequence[Term]], factor: float) -> Terms:
    """A sum multiplied by `factor`; empty for a factor of 0."""
    if not factor:
        return {}
    return {path: [delta.weighted(each, factor) for each in some] for path, some in terms.items()}


def folded(
    kept: Mapping[str, Factors], added: Mapping[str, Terms], factor: float, tolerance: float
) -> tuple[dict[str, Factors], float]:
    """``factor * kept + added`` of every owner, and the norm of what the folds left out."""
    found, lost = dict[str, Factors](), 0.0
    for name in sorted({*kept, *added} if factor else ()):
        before, terms = kept.get(name, {}), added.get(name, {})
        if factor == 1 and not terms:
            found |= {name: before} if before else {}
            continue
        total = summed(product(before, factor), terms)
        folds = {path: delta.fold(each, tolerance) for path, each in total.items()}
        lost += sum(_norm(made[0]) ** 2 * error**2 for made, error in folds.values() if error)
        factors = {path: low_rank.single(made) for path, (made, _) in folds.items()}
        if any(low_rank.ranks(factors).values()):
            found[name] = factors
    return found, lost**0.5


def _norm(b_OR: Tensor) -> float:
    """The Frobenius norm of a balanced product, whose B holds the roots of the singular values."""
    return float(b_OR.square().sum(0).norm())
