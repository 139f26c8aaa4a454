"""sign1 against `memcpy` and against numpy done the obvious way."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmore.kernels.bench import Result, compare
from fedmore.kernels.sign1 import cpu

BLOCK = 256
Floats = NDArray[np.float32]


def results(quick: bool) -> Iterator[Result]:
    """Encode with residual, encode, decode and weighted sums, of 8M numbers (quick: 1M).

    Ours, torch's `memcpy` and what numpy leaves to threads run in torch's number of threads. The
    residual is updated in place, as a client's is; it is copied with the change, 8 bytes a number.
    """
    count = 1 << (20 if quick else 23)
    yield from _encoding(count, 5 if quick else 15)
    yield from _decoding(count, 5 if quick else 15)


def _encoding(count: int, repeats: int) -> Iterator[Result]:
    change, residual = torch.randn(count), torch.randn(count)
    both, copy = torch.cat([change, residual]), torch.zeros(2 * count)
    case = f"{_case(count)}, in place"

    def ours() -> tuple[Tensor, Tensor, Tensor]:
        return cpu.encode_with_residual(change, residual, BLOCK, out=residual)

    def verify() -> bool:
        wanted = change + residual
        bits, scales, left = ours()
        same = np.array_equal(bits.numpy(), np.packbits(wanted >= 0, bitorder="little"))
        sent = cpu.decode(bits, scales, count, BLOCK)
        return same and torch.allclose(sent + left, wanted, atol=1e-5)

    yield compare(
        "sign1 encode with residual",
        case,
        ours,
        lambda: copy.copy_(both),
        opponent_name="memcpy of both inputs",
        verify=verify,
        goal=0.6,
        repeats=repeats,
    )
    yield compare(
        "sign1 encode with residual",
        case,
        ours,
        lambda: numpy_encode(change.numpy(), residual.numpy()),
        opponent_name="numpy packbits and scale",
        verify=verify,
        goal=10,
        repeats=repeats,
        opponent_repeats=min(repeats, 7),
    )
    half = change.bfloat16()
    yield compare(
        "sign1 encode",
        f"{_case(count)}, bfloat16",
        lambda: cpu.encode(half, BLOCK),
        lambda: copy[: count // 2].copy_(both[: count // 2]),
        opponent_name="memcpy of the input",
        verify=lambda: torch.equal(cpu.encode(half, BLOCK)[1], cpu.encode(half.float(), BLOCK)[1]),
        repeats=repeats,
    )


def _decoding(count: int, repeats: int) -> Iterator[Result]:
    encoded = [cpu.encode(torch.randn(count), BLOCK) for _ in range(16)]
    yield _sum("sign1 weighted sum of 16", encoded, count, 40, repeats)
    yield _sum("sign1 decode", encoded[:1], count, None, repeats)


def _sum(
    name: str, encoded: list[tuple[Tensor, Tensor]], count: int, goal: float | None, repeats: int
) -> Result:
    weights, out = [(k + 1) / 136 for k in range(len(encoded))], torch.zeros(count)

    def ours() -> Tensor:
        return cpu.weighted_sum(encoded, weights, count, BLOCK, out=out)

    def theirs() -> Floats:
        return numpy_sum(encoded, weights, count)

    return compare(
        name,
        _case(count),
        ours,
        theirs,
        opponent_name="numpy unpackbits, scale and add",
        verify=lambda: bool(np.allclose(ours().numpy(), theirs(), rtol=1e-5, atol=1e-6)),
        goal=goal,
        repeats=repeats,
        opponent_repeats=3,
    )


def numpy_encode(change: Floats, residual: Floats) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """The obvious way; sums in float32 and leaves the scales there."""
    wanted = change + residual
    scales = np.abs(wanted).reshape(-1, BLOCK).mean(axis=1)
    positive = wanted >= 0
    sent = np.where(positive, np.float32(1), np.float32(-1)) * np.repeat(scales, BLOCK)
    return np.packbits(positive, bitorder="little"), scales, wanted - sent


def numpy_sum(encoded: list[tuple[Tensor, Tensor]], weights: list[float], count: int) -> Floats:
    """The obvious way: decode every update, then add it."""
    total = np.zeros(count, np.float32)
    for (bits, scales), weight in zip(encoded, weights, strict=True):
        signs = np.unpackbits(bits.numpy(), bitorder="little").astype(np.float32) * 2 - 1
        total += np.float32(weight) * signs * np.repeat(scales.float().numpy(), BLOCK)
    return total


def _case(count: int) -> str:
    return f"{count >> 20}M numbers, blocks of {BLOCK}, {torch.get_num_threads()} threads"
