"""Compares lowrank_sum with the SVD of the dense sum."""

from collections.abc import Iterator

import torch

from fedmore.kernels.benchmarking.comparison import Result, compare, compare_memory, peak_memory
from fedmore.kernels.determinism import one_thread
from fedmore.kernels.dispatch import choose
from fedmore.kernels.lowrank_sum import cpu, reference

CPU = torch.device("cpu")
RANKS = (4, 8, 12, 16, 24, 32, 48, 64)
# Size of the matrices, divisor of the ranks, runs of the dense SVD, number of layers.
QUICK, FULL = (512, 4, 5, 12), (4096, 1, 1, 60)


def results(quick: bool, device: torch.device) -> Iterator[Result]:
    """Aggregation of 8 clients: time, peak memory on a CPU, and layers one by one or together.

    Everything runs in one thread, as in the coordinator. In the full bench the dense SVD of
    4096 x 4096 takes minutes, so it runs once for the time and once for the memory. It always runs
    on the CPU.
    """
    size, parts, runs, layers = QUICK if quick else FULL
    with one_thread():
        yield from _aggregate(size, tuple(r // parts for r in RANKS), runs, device)
        yield _layers(layers, device)


def _aggregate(
    size: int, ranks: tuple[int, ...], runs: int, device: torch.device
) -> Iterator[Result]:
    form = choose("lowrank_sum", device)
    terms, there = (
        [_term(size, size, rank, k, where) for k, rank in enumerate(ranks)]
        for where in (CPU, device)
    )
    rank = sum(ranks)
    case = f"{len(ranks)} clients, ranks {min(ranks)}-{max(ranks)}, {size} x {size}"

    def ours() -> cpu.Factors:
        factors: cpu.Factors = form.aggregate(there, rank)
        return factors

    def dense() -> cpu.Factors:
        return reference.aggregate(terms, rank)

    def verify() -> bool:
        return _exact(ours(), terms)

    time = compare(
        "lowrank_sum aggregate",
        case,
        ours,
        dense,
        opponent_name="SVD of the dense sum",
        verify=verify,
        goal=50,
        repeats=5,
        opponent_repeats=runs,
    )
    yield time
    if time.verified and device.type == "cpu":
        figures = peak_memory(ours), peak_memory(dense)
        name, who = "lowrank_sum aggregate, peak memory", "SVD of the dense sum"
        memory = compare_memory(name, case, *figures, who, 20)
        if memory:
            yield memory


def _layers(count: int, device: torch.device) -> Result:
    form, ranks = choose("lowrank_sum", device), (4, 4, 8)
    terms, layers = (
        [[_term(96, 64, rank, i + k, where) for k, rank in enumerate(ranks)] for i in range(count)]
        for where in (CPU, device)
    )

    def one_by_one() -> list[cpu.Factors]:
        return [form.aggregate(layer, 16) for layer in layers]

    def verify() -> bool:
        return all(map(_exact, form.aggregate_layers(layers, 16), terms))

    return compare(
        "lowrank_sum aggregate of layers",
        f"{count} layers of 96 x 64, ranks 4, 4, 8",
        lambda: form.aggregate_layers(layers, 16),
        one_by_one,
        opponent_name="one layer after the other",
        verify=verify,
    )


def _exact(factors: cpu.Factors, terms: list[cpu.Term]) -> bool:
    """Whether the factors' product equals the dense sum, to rounding."""
    b, a = (factor.cpu() for factor in factors)
    exact = reference.dense(terms)
    return float((b @ a - exact).norm() / exact.norm()) < 1e-9


def _term(m: int, n: int, rank: int, seed: int, device: torch.device) -> cpu.Term:
    g = torch.Generator().manual_seed(seed)
    b, a = torch.randn(m, rank, generator=g), torch.randn(rank, n, generator=g)
    return b.to(device), a.to(device), 0.1 * (seed + 1)
