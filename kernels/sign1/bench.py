"""Compares sign1 with `memcpy`, with obvious numpy code and, on a GPU, with the memory's peak."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmore.kernels.benchmarking import roofline
from fedmore.kernels.benchmarking.comparison import Result, compare
from fedmore.kernels.dispatch import choose
from fedmore.kernels.sign1.buffers import Encoded

BLOCK, UPDATES = 256, 16
COUNT = {"cpu": (1 << 20, 1 << 23), "cuda": (1 << 24, 1 << 26)}  # quick, full
Floats = NDArray[np.float32]


def results(quick: bool, device: torch.device) -> Iterator[Result]:
    """Encode with residual, encode, decode and weighted sums, of 8M numbers (quick: 1M).

    All sides use torch's number of threads. The residual is updated in place, as in a client. The
    `memcpy` copies it with the change, 8 bytes per number. On a GPU there are more numbers, since
    8M fit in its cache, and numpy only verifies.
    """
    count = COUNT[device.type][not quick]
    case = _Case(count, 5 if quick else 15, device)
    yield from case.encoding()
    yield from case.summing()
    if device.type == "cuda":
        yield from case.parts_of(roofline.memory(device))


class _Case:
    def __init__(self, count: int, repeats: int, device: torch.device) -> None:
        self.count, self.repeats, self.device = count, repeats, device
        self.form: Any = choose("sign1", device)
        threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
        self.text = f"{count / 2**20:g}M numbers, blocks of {BLOCK}{threads}"
        self.change, self.residual = self._numbers(), self._numbers()
        self.encoded = [self.form.encode(self._numbers(), BLOCK) for _ in range(UPDATES)]
        self.out = torch.zeros(count, device=device)

    def _numbers(self) -> Tensor:
        return torch.randn(self.count).to(self.device)

    def encode(self) -> tuple[Tensor, Tensor, Tensor]:
        """Encode with error feedback, in place."""
        residual = self.residual
        found: tuple[Tensor, Tensor, Tensor] = self.form.encode_with_residual(
            self.change, residual, BLOCK, out=residual
        )
        return found

    def right(self) -> bool:
        """Whether bits and scales equal numpy's, and the residual is what was not sent."""
        wanted = self.change + self.residual
        bits, scales, left = self.encode()
        sent = self.form.decode(bits, scales, self.count, BLOCK)
        return same((bits, scales), wanted) and torch.allclose(sent + left, wanted, atol=1e-5)

    def encoding(self) -> Iterator[Result]:
        """Compare with copies and, on a CPU, with numpy."""
        both = torch.cat([self.change, self.residual])
        copy, half = torch.zeros_like(both), self.change.bfloat16()
        fair = partial(compare, repeats=self.repeats)
        name, text = "sign1 encode with residual", f"{self.text}, in place"
        yield fair(
            name, text, self.encode, lambda: copy.copy_(both),
            opponent_name="memcpy of both inputs", verify=self.right, goal=0.6,
        )  # fmt: skip
        if self.device.type == "cpu":
            yield fair(
                name, text, self.encode,
                lambda: numpy_encode(self.change.numpy(), self.residual.numpy()),
                opponent_name="numpy packbits and scale", verify=self.right, goal=10,
            )  # fmt: skip
        yield fair(
            "sign1 encode",
            f"{self.text}, bfloat16",
            lambda: self.form.encode(half, BLOCK),
            lambda: copy[: self.count // 2].copy_(both[: self.count // 2]),
            opponent_name="memcpy of the input",
            verify=lambda: same(self.form.encode(half, BLOCK), half.float()),
        )

    def summing(self) -> Iterator[Result]:
        """Compare sums of many updates and of one with numpy, on a CPU."""
        if self.device.type == "cpu":
            yield self._sum(f"sign1 weighted sum of {UPDATES}", self.encoded, 40)
            yield self._sum("sign1 decode", self.encoded[:1], None)

    def _sum(self, name: str, encoded: list[Encoded], goal: float | None) -> Result:
        return compare(
            name, self.text, self.adder(encoded), lambda: numpy_sum(encoded, self.count),
            opponent_name="numpy unpackbits, scale and add", verify=lambda: self.added(encoded),
            goal=goal, repeats=self.repeats,
        )  # fmt: skip

    def adder(self, encoded: list[Encoded]) -> Callable[[], Tensor]:
        """Make a call that sums the weighted updates into existing memory."""
        return partial(
            self.form.weighted_sum, encoded, weights_of(encoded), self.count, BLOCK, out=self.out
        )

    def added(self, encoded: list[Encoded]) -> bool:
        """Whether that sum equals numpy's."""
        ours = self.adder(encoded)().cpu().numpy()
        return bool(np.allclose(ours, numpy_sum(encoded, self.count), rtol=1e-5, atol=1e-6))

    def parts_of(self, memory: roofline.Peak) -> Iterator[Result]:
        """Compare with the memory's peak, if numbers, bits and scales are moved once each."""
        code = self.count / 8 + 2 * self.count / BLOCK
        yield roofline.part_of(
            memory, "sign1 encode with residual, part of the memory's speed", self.text,
            self.encode, 12 * self.count + code, verify=self.right, repeats=self.repeats,
        )  # fmt: skip
        yield roofline.part_of(
            memory, f"sign1 weighted sum of {UPDATES}, part of the memory's speed", self.text,
            self.adder(self.encoded), 4 * self.count + UPDATES * code,
            verify=lambda: self.added(self.encoded), repeats=self.repeats,
        )  # fmt: skip


def same(encoded: Encoded, wanted: Tensor) -> bool:
    """Whether signs are as numpy packs them, and scales are its means rounded to bfloat16."""
    (bits, scales), numbers = encoded, wanted.cpu().numpy()
    packed, means = np.packbits(numbers >= 0, bitorder="little"), numpy_scales(numbers)
    close = np.allclose(scales.float().cpu().numpy(), means, rtol=1.001 * 2**-8, atol=0)
    return close and np.array_equal(bits.cpu().numpy(), packed)


def numpy_scales(numbers: Floats) -> Floats:
    """Mean magnitude of every block, float32."""
    means: Floats = np.abs(numbers).reshape(-1, BLOCK).mean(axis=1)
    return means


def numpy_encode(change: Floats, residual: Floats) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Encode the obvious way, with float32 sums and scales."""
    wanted = change + residual
    scales = numpy_scales(wanted)
    positive = wanted >= 0
    sent = np.where(positive, np.float32(1), np.float32(-1)) * np.repeat(scales, BLOCK)
    return np.packbits(positive, bitorder="little"), scales, wanted - sent


def numpy_sum(encoded: list[Encoded], count: int) -> Floats:
    """Sum the obvious way: decode every update, then add it."""
    total = np.zeros(count, np.float32)
    for (bits, scales), weight in zip(encoded, weights_of(encoded), strict=True):
        signs = np.unpackbits(bits.cpu().numpy(), bitorder="little").astype(np.float32) * 2 - 1
        total += np.float32(weight) * signs * np.repeat(scales.cpu().float().numpy(), BLOCK)
    return total


def weights_of(encoded: list[Encoded]) -> list[float]:
    """One weight per update, all different."""
    return [(k + 1) / 136 for k in range(len(encoded))]
