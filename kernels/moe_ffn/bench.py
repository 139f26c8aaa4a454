"""moe_ffn against one dense FFN, the FlexOlmo way, and plain torch.

Four of seven experts of rank 16 are active. Backward passes are timed alone: with the experts
frozen (gradients of x and the router's weights) against a dense FFN with frozen weights, with the
experts trained against a dense FFN that is trained.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from fedmore.kernels.bench import Result, compare
from fedmore.kernels.moe_ffn import cpu, plain
from fedmore.kernels.moe_ffn.reference import Expert

ACTIVE, EXPERTS, RANK = 4, 7, 16
Runs = Sequence[Callable[[], Tensor]]


@dataclass(frozen=True)
class Size:
    """A model's FFN, the tokens of a batch, and the goal as times one dense FFN."""

    name: str
    width: int
    hidden: int
    tokens: int
    goal: float


SIZES = Size("SmolLM2-135M", 576, 1536, 1024, 1.35), Size("1B class", 2048, 8192, 256, 1.2)
QUICK = Size("SmolLM2-135M", 576, 1536, 128, 1.35), Size("1B class", 2048, 8192, 32, 1.2)


def results(quick: bool) -> Iterator[Result]:
    """Forward and backward of both sizes."""
    repeats = 3 if quick else 9
    for size in QUICK if quick else SIZES:
        torch.manual_seed(0)
        case = _Case(size, repeats)
        yield from case.forward()
        yield from case.backward()


class _Case:
    def __init__(self, size: Size, repeats: int) -> None:
        self.size, self.repeats = size, repeats
        d, h, count = size.width, size.hidden, size.tokens
        self.weights = [torch.randn(*s) * s[1] ** -0.5 for s in ((h, d), (h, d), (d, h))]
        gate, up, down = map(_linear, self.weights)
        self.base = gate, up, down
        self.experts = [_expert(d, h) for _ in range(EXPERTS)]
        self.x, chances = torch.randn(count, d), torch.randn(count, EXPERTS + 1).softmax(1)
        top = chances[:, :EXPERTS].topk(ACTIVE, 1)
        self.gates = torch.zeros(count, EXPERTS).scatter(1, top.indices, top.values)
        self.prepared = cpu.prepare(self.experts)
        self.text = f"{size.name} ({d}, {h}), {count} tokens, {ACTIVE} of {EXPERTS}, rank {RANK}"

    def ours(self) -> Tensor:
        """Our forward pass."""
        return cpu.moe_ffn(self.x, self.gates, self.base, self.prepared, silu)

    def dense(self) -> Tensor:
        """One FFN of the base."""
        return _ffn(self.x, self.weights)

    def plain(self) -> Tensor:
        """The same formula by torch operators."""
        gate, up, down = self.base
        return plain.mix(self.x, gate(self.x), up(self.x), self.gates, down, self.experts, silu)

    def forward(self) -> Iterator[Result]:
        """Against one dense FFN, dense experts, and plain torch."""
        full = [
            [w + b @ a for w, (b, a) in zip(self.weights, expert, strict=True)]
            for expert in self.experts
        ]

        def flexolmo(with_base: bool) -> Tensor:
            return _flexolmo(self.x, self.gates, self.weights if with_base else None, full)

        goal, text = round(1 / self.size.goal, 3), self.text
        with torch.no_grad():
            yield self._compare("forward", text, self.dense, "one dense FFN", goal)
            yield self._compare("forward", text, self.plain, "torch operators", None)
            opponent = "FlexOlmo: 4 dense experts and the base"
            yield self._compare("forward", text, lambda: flexolmo(True), opponent, 3.3)
            self.gates /= self.gates.sum(1, keepdim=True)
            text += ", weights sum to 1"
            opponent = "FlexOlmo: 4 dense experts"
            yield self._compare("forward", text, lambda: flexolmo(False), opponent, None)

    def _compare(
        self, name: str, text: str, other: Callable[[], Tensor], who: str, goal: float | None
    ) -> Result:
        return compare(
            f"moe_ffn {name}", text, self.ours, other, opponent_name=who, goal=goal,
            verify=lambda: _close(self.ours(), self.plain()) and (who == "one dense FFN" or _close(
                self.ours(), other())), repeats=self.repeats,
        )  # fmt: skip

    def backward(self) -> Iterator[Result]:
        """Frozen against frozen, trained against trained."""
        x, gates = self.x.requires_grad_(), self.gates.requires_grad_()
        goal = round(1 / self.size.goal, 3)
        yield _backward(
            "moe_ffn backward, frozen experts", self.text, (self.ours, self.dense, self.plain),
            ([x, gates], [x], [x, gates]), "one dense FFN, frozen", goal, self.repeats,
        )  # fmt: skip
        factors = [f.requires_grad_() for e in self.experts for p in e for f in p]
        weights = [w.clone().requires_grad_() for w in self.weights]

        def ours() -> Tensor:
            return cpu.moe_ffn(x, gates, self.base, self.experts, silu)

        leaves = [x, gates, *factors], [x, *weights], [x, gates, *factors]
        runs = ours, lambda: _ffn(x, weights), self.plain
        name, who = "moe_ffn backward, trained experts", "one dense FFN, trained"
        yield _backward(name, self.text, runs, leaves, who, goal, self.repeats)


def _linear(weight: Tensor) -> plain.Linear:
    return lambda x: linear(x, weight)


def _expert(width: int, hidden: int) -> Expert:
    return _pair(hidden, width), _pair(hidden, width), _pair(width, hidden)


def _pair(out: int, inner: int) -> tuple[Tensor, Tensor]:
    return torch.randn(out, RANK) * RANK**-0.5 * 0.3, torch.randn(RANK, inner) * inner**-0.5


def _ffn(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    gate, up, down = weights
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def _flexolmo(
    x: Tensor, gates: Tensor, public: Sequence[Tensor] | None, experts: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Full-size experts on their tokens, gathered and added up; the base with the rest's weight."""
    rest = 1 - gates.sum(1, keepdim=True)
    y = torch.zeros_like(x) if public is None else rest * _ffn(x, public)
    for i, expert in enumerate(experts):
        tokens = gates[:, i].nonzero().squeeze(1)
        y.index_add_(0, tokens, gates[tokens, i, None] * _ffn(x[tokens], expert))
    return y


def _close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).norm() / b.norm()) < 1e-5


def _backward(
    name: str, case: str, runs: Runs, leaves: Sequence[list[Tensor]], who: str, goal: float,
    repeats: int,
) -> Result:  # fmt: skip
    """The backward pass of the first run against that of the second; the third verifies."""
    seed = torch.randn(runs[0]().shape)

    def gradients(which: int) -> tuple[Tensor, ...]:
        return torch.autograd.grad(runs[which](), leaves[which], seed)

    if not all(map(_close, gradients(0), gradients(2))):
        return Result(name, case, None, None, who, "ms", None, goal, verified=False)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for which in (0, 1):
            y = runs[which]()
            start = time.perf_counter()
            torch.autograd.grad(y, leaves[which], seed)
            times[which].append((time.perf_counter() - start) * 1000)
    ours, other = map(statistics.median, times)
    return Result(name, case, ours, other, who, "ms", other / ours, goal, verified=True)
