"""delta against the SVD of the dense sum."""

from collections.abc import Iterator

import torch

from fedmore.kernels.bench import Result, compare, compare_memory, peak_memory
from fedmore.kernels.delta import cpu, reference
from fedmore.kernels.determinism import one_thread

RANKS = (4, 8, 12, 16, 24, 32, 48, 64)


def results(quick: bool) -> Iterator[Result]:
    """Aggregate of 8 clients: time and peak memory; small layers one by one and together.

    Everything in one thread, as the coordinator aggregates. In full the dense SVD of 4096 x 4096
    is run once, for time and memory: minutes.
    """
    with one_thread():
        size, ranks = (512, tuple(r // 4 for r in RANKS)) if quick else (4096, RANKS)
        yield from _aggregate(size, ranks)
        yield _layers(quick)


def _aggregate(size: int, ranks: tuple[int, ...]) -> Iterator[Result]:
    terms = [_term(size, size, rank, k) for k, rank in enumerate(ranks)]
    rank = sum(ranks)
    case = f"{len(ranks)} clients, ranks {min(ranks)}-{max(ranks)}, {size} x {size}"
    seen: list[float | None] = []

    def dense() -> None:
        # The memory and the time of one run: it takes minutes.
        seen.append(peak_memory(lambda: reference.aggregate(terms, rank)))

    def verify() -> bool:
        b, a = cpu.aggregate(terms, rank)
        pairs = zip(cpu.dense_blocks([(b, a, 1.0)]), cpu.dense_blocks(terms), strict=True)
        return all(float((ours - exact).norm() / exact.norm()) < 1e-9 for ours, exact in pairs)

    yield compare(
        "delta aggregate",
        case,
        lambda: cpu.aggregate(terms, rank),
        dense,
        opponent_name="SVD of the dense sum",
        verify=verify,
        goal=50,
        repeats=5,
        opponent_repeats=1,
    )
    ours = peak_memory(lambda: cpu.aggregate(terms, rank))
    memory = compare_memory(
        "delta aggregate, peak memory",
        case,
        ours,
        seen[0] if seen else None,
        "SVD of the dense sum",
        20,
    )
    if memory:
        yield memory


def _layers(quick: bool) -> Result:
    count, ranks = (12 if quick else 60), (4, 4, 8)
    layers = [[_term(96, 64, rank, i + k) for k, rank in enumerate(ranks)] for i in range(count)]

    def one_by_one() -> list[cpu.Factors]:
        return [cpu.aggregate(terms, 16) for terms in layers]

    def verify() -> bool:
        pairs = zip(cpu.aggregate_layers(layers, 16), one_by_one(), strict=True)
        return all(torch.allclose(b @ a, d @ c) for (b, a), (d, c) in pairs)

    return compare(
        "delta aggregate of layers",
        f"{count} layers of 96 x 64, ranks 4, 4, 8",
        lambda: cpu.aggregate_layers(layers, 16),
        one_by_one,
        opponent_name="one layer after the other",
        verify=verify,
    )


def _term(m: int, n: int, rank: int, seed: int) -> cpu.Term:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(m, rank, generator=g), torch.randn(rank, n, generator=g), 0.1 * (seed + 1)
