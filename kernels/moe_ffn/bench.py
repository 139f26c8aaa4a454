"""Compares moe_ffn with one dense FFN, with FlexOlmo's dense experts, and with plain torch.

Four of seven experts of rank 16 are active. Backward passes are timed alone. With frozen experts
(gradients of x and the router's weights) the opponent is a dense FFN with frozen weights; with
trained experts it is a dense FFN that is trained. On a GPU numbers are bfloat16, batches are 16
times as large, and extra rows show which fraction of the matrix units' peak is reached.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from fedmore.kernels.benchmarking import roofline
from fedmore.kernels.benchmarking.comparison import Result, compare, timed
from fedmore.kernels.dispatch import choose
from fedmore.kernels.grouped_lowrank.factors import matrix_of
from fedmore.kernels.moe_ffn import torch_fallback
from fedmore.kernels.moe_ffn.reference import Expert

ACTIVE, EXPERTS, RANK = 4, 7, 16
ERROR = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # relative RMS
Runs = Sequence[Callable[[], Tensor]]
There = dict[str, Any]  # device and dtype


@dataclass(frozen=True)
class Size:
    """A model's FFN widths, the batch's tokens, and the goal in multiples of a dense FFN's time."""

    name: str
    width: int
    hidden: int
    tokens: int
    goal: float


SIZES = Size("SmolLM2-135M", 576, 1536, 1024, 1.35), Size("1B class", 2048, 8192, 256, 1.2)
QUICK = Size("SmolLM2-135M", 576, 1536, 128, 1.35), Size("1B class", 2048, 8192, 32, 1.2)


def results(quick: bool, device: torch.device) -> Iterator[Result]:
    """Forward and backward pass of both sizes."""
    on_gpu, best = device.type == "cuda", None
    there: There = {"device": device, "dtype": torch.bfloat16 if on_gpu else torch.float32}
    if on_gpu:
        best = roofline.matrices(device, torch.bfloat16)
    for size in QUICK if quick else SIZES:
        torch.manual_seed(0)
        tokens = size.tokens * (16 if on_gpu else 1)
        case = _Case(replace(size, tokens=tokens), 3 if quick else 9, there)
        if best:
            yield case.part_of(best)
        yield from case.forward()
        yield from case.backward()


class _Case:
    def __init__(self, size: Size, repeats: int, there: There) -> None:
        self.size, self.repeats = size, repeats
        self.form: Any = choose("moe_ffn", there["device"])
        d, h, count = size.width, size.hidden, size.tokens
        weights = [torch.randn(*s) * s[1] ** -0.5 for s in ((h, d), (h, d), (d, h))]
        self.weights = [weight.to(**there) for weight in weights]
        gate, up, down = map(_linear, self.weights)
        self.base = gate, up, down
        self.experts = [_expert(d, h, there) for _ in range(EXPERTS)]
        x, chances = torch.randn(count, d), torch.randn(count, EXPERTS + 1).softmax(1)
        top = chances[:, :EXPERTS].topk(ACTIVE, 1)
        gates = torch.zeros(count, EXPERTS).scatter(1, top.indices, top.values)
        self.x, self.gates = x.to(**there), gates.to(there["device"])
        self.prepared = self.form.prepare(self.experts)
        self.text = f"{size.name} ({d}, {h}), {count} tokens, {ACTIVE} of {EXPERTS}, rank {RANK}"

    def ours(self) -> Tensor:
        """Run our forward pass."""
        y: Tensor = self.form.moe_ffn(self.x, self.gates, self.base, self.prepared, silu)
        return y

    def dense(self) -> Tensor:
        """Run one FFN of the base."""
        return _ffn(self.x, self.weights)

    def plain(self) -> Tensor:
        """Compute the same formula by torch operators."""
        gate, up, down = self.base
        return torch_fallback.mix(
            self.x, gate(self.x), up(self.x), self.gates, down, self.experts, silu
        )

    def forward(self) -> Iterator[Result]:
        """Compare with one dense FFN, with dense experts and with plain torch."""
        full = [
            [w + matrix_of(change) for w, change in zip(self.weights, expert, strict=True)]
            for expert in self.experts
        ]

        def flexolmo(with_base: bool) -> Tensor:
            return _flexolmo(self.x, self.gates, self.weights if with_base else None, full)

        goal, text = round(1 / self.size.goal, 3), self.text
        with torch.no_grad():
            yield self._compare("forward", text, self.dense, "one dense FFN", goal)
            yield self._compare("forward", text, self.plain, "torch operators", None)
            opponent = "FlexOlmo: 4 dense experts and the base"
            yield self._compare("forward", text, lambda: flexolmo(True), opponent, None)
            self.gates /= self.gates.sum(1, keepdim=True)  # so the base has no weight there
            text += ", weights sum to 1"
            opponent = "FlexOlmo: the same 4 experts made dense"
            yield self._compare("forward", text, lambda: flexolmo(False), opponent, 3.3)

    def _compare(
        self, name: str, text: str, other: Callable[[], Tensor], who: str, goal: float | None
    ) -> Result:
        return compare(
            f"moe_ffn {name}", text, self.ours, other, opponent_name=who, goal=goal,
            verify=lambda: _close(self.ours(), self.plain()) and (who == "one dense FFN" or _close(
                self.ours(), other())), repeats=self.repeats,
        )  # fmt: skip

    def part_of(self, best: roofline.Peak) -> Result:
        """Compare with the peak; the work is the base's products and those with the factors."""
        d, h, routed = self.size.width, self.size.hidden, ACTIVE * self.size.tokens
        work = 6 * self.size.tokens * d * h + 6 * routed * RANK * (d + h)
        with torch.no_grad():
            return roofline.part_of(
                best, "moe_ffn forward, part of the matrix peak", f"{self.text}, bfloat16",
                self.ours, work, verify=lambda: _close(self.ours(), self.plain()),
                repeats=self.repeats,
            )  # fmt: skip

    def backward(self) -> Iterator[Result]:
        """Compare backward passes: frozen with frozen, trained with trained."""
        x, gates = self.x.requires_grad_(), self.gates.requires_grad_()
        goal = round(1 / self.size.goal, 3)
        yield _backward(
            "moe_ffn backward, frozen experts", self.text, (self.ours, self.dense, self.plain),
            ([x, gates], [x], [x, gates]), "one dense FFN, frozen", goal, self.repeats,
        )  # fmt: skip
        factors = [f.requires_grad_() for e in self.experts for p in e for f in p]
        weights = [w.clone().requires_grad_() for w in self.weights]

        def ours() -> Tensor:
            y: Tensor = self.form.moe_ffn(x, gates, self.base, self.experts, silu)
            return y

        leaves = [x, gates, *factors], [x, *weights], [x, gates, *factors]
        runs = ours, lambda: _ffn(x, weights), self.plain
        name, who = "moe_ffn backward, trained experts", "one dense FFN, trained"
        yield _backward(name, self.text, runs, leaves, who, goal, self.repeats)


def _linear(weight: Tensor) -> torch_fallback.Linear:
    return lambda x: linear(x, weight)


def _expert(width: int, hidden: int, there: There) -> Expert:
    shapes = (hidden, width), (hidden, width), (width, hidden)
    gate, up, down = (_pair(out, inner, there) for out, inner in shapes)
    return gate, up, down


def _pair(out: int, inner: int, there: There) -> tuple[Tensor, Tensor]:
    b, a = torch.randn(out, RANK) * RANK**-0.5 * 0.3, torch.randn(RANK, inner) * inner**-0.5
    return b.to(**there), a.to(**there)


def _ffn(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    gate, up, down = weights
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def _flexolmo(
    x: Tensor, gates: Tensor, public: Sequence[Tensor] | None, experts: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Run full-size experts on their gathered tokens and add up; the base takes the weight left."""
    gates = gates.to(x.dtype)
    rest = 1 - gates.sum(1, keepdim=True)
    y = torch.zeros_like(x) if public is None else rest * _ffn(x, public)
    for i, expert in enumerate(experts):
        tokens = gates[:, i].nonzero().squeeze(1)
        y.index_add_(0, tokens, gates[tokens, i, None] * _ffn(x[tokens], expert))
    return y


def _close(a: Tensor, b: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether both agree to the rounding of `dtype`, by default that of `a`."""
    error = (a.double() - b.double()).norm() / b.double().norm()
    return float(error) < ERROR[dtype or a.dtype]


def _backward(
    name: str, case: str, runs: Runs, leaves: Sequence[list[Tensor]], who: str, goal: float,
    repeats: int,
) -> Result:  # fmt: skip
    """Compare the backward pass of the first run with that of the second; the third verifies."""
    seed = torch.randn_like(runs[0]())

    def gradients(which: int) -> tuple[Tensor, ...]:
        return torch.autograd.grad(runs[which](), leaves[which], seed)

    gradients(1)
    pairs = zip(gradients(0), gradients(2), strict=True)
    if not all(_close(a, b, seed.dtype) for a, b in pairs):
        return Result(name, case, None, None, who, "ms", None, goal, verified=False)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for which in (0, 1):
            times[which].append(
                timed(partial(torch.autograd.grad, runs[which](), leaves[which], seed))
            )
    ours, other = map(statistics.median, times)
    return Result(name, case, ours, other, who, "ms", other / ours, goal, verified=True)
