"""Compares lora_mix with PEFT's mixed batch (`adapter_names`) and with plain torch.

PEFT's layer computes its linear layer too. To time its adapters alone, that linear layer is
replaced by one that copies a given `y`. The whole layer is timed as well.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from fedmore.kernels.benchmarking.comparison import Result, compare
from fedmore.kernels.dispatch import choose
from fedmore.kernels.errors import KernelError
from fedmore.kernels.lora_mix import torch_fallback

WIDTH, RANKS = 576, (4, 8, 8, 16, 16, 32, 32, 64)
# Pairs of (sequences, tokens per sequence).
QUICK, FULL = ((16, 1), (64, 1), (16, 8)), ((16, 1), (64, 1), (16, 128))


def results(quick: bool, device: torch.device) -> Iterator[Result]:
    """Batches over 8 adapters of ranks 4 to 64, width 576, with one or many tokens per sequence."""
    if find_spec("peft") is None:
        raise KernelError("the bench of lora_mix compares with PEFT: install fedmore[bench]")
    repeats = 5 if quick else 25
    for sequences, length in QUICK if quick else FULL:
        torch.manual_seed(0)
        case = _Case(sequences, length, device)
        yield case.against_peft(repeats, alone=True)
        yield case.against_peft(repeats, alone=False)
    yield case.against_torch(repeats)


class _Case:
    """A batch of sequences, each with its own adapter of weight 1."""

    def __init__(self, sequences: int, length: int, device: torch.device) -> None:
        self.form: Any = choose("lora_mix", device)
        self.adapters = [
            (_numbers(WIDTH, r, device) * r**-0.5, _numbers(r, WIDTH, device) * WIDTH**-0.5)
            for r in RANKS
        ]
        self.own = [i % len(RANKS) for i in range(sequences)]
        self.x = torch.randn(sequences, length, WIDTH).to(device)
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False).to(device)
        self.flat = self.x.flatten(0, 1)
        self.y = self.linear(self.flat).detach()
        self.gates = torch.eye(len(RANKS))[self.own].repeat_interleave(length, 0).to(device)
        self.prepared = self.form.prepare(self.adapters)
        self.text = f"{sequences} x {length} tokens, 8 adapters, float32"

    def against_peft(self, repeats: int, alone: bool) -> Result:
        """Compare the adapters alone, or together with the linear layer."""
        theirs = self._peft(_Given(self.y.view_as(self.x)) if alone else self.linear)

        def ours() -> Tensor:
            return self._ours(self.y if alone else self.linear(self.flat), self.gates)

        return _compare(
            "lora_mix" if alone else "lora_mix with its linear layer",
            self.text, ours, theirs, "PEFT adapter_names", 3.0 if alone else None, repeats,
        )  # fmt: skip

    def against_torch(self, repeats: int) -> Result:
        """Compare the forward pass of two adapters per token with `torch_fallback`."""
        gates = (self.gates + self.gates.roll(1, dims=1)) / 2
        return _compare(
            "lora_mix, two adapters a token",
            self.text,
            lambda: self._ours(self.y, gates),
            lambda: torch_fallback.lora_mix(self.y, self.flat, gates, self.adapters),
            "torch operators",
            None,
            repeats,
        )

    def _ours(self, y: Tensor, gates: Tensor) -> Tensor:
        mixed: Tensor = self.form.lora_mix(y, self.flat, gates, self.prepared)
        return mixed

    def _peft(self, linear: nn.Module) -> Callable[[], Tensor]:
        """PEFT's own layer with the same adapters."""
        from peft import LoraConfig, get_peft_model

        holder = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False))
        model: Any = holder
        for i, rank in enumerate(RANKS):
            config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"])
            if i:
                model.add_adapter(str(i), config)
            else:
                model = get_peft_model(holder, config, adapter_name="0")
        layer = model.base_model.model[0].eval()
        for i, (b, a) in enumerate(self.adapters):
            layer.lora_A[str(i)].weight.data, layer.lora_B[str(i)].weight.data = a, b
        layer.base_layer = linear
        names = [str(i) for i in self.own]
        result: Callable[[], Tensor] = lambda: layer(self.x, adapter_names=names)  # noqa: E731
        return result


def _numbers(rows: int, columns: int, device: torch.device) -> Tensor:
    return torch.randn(rows, columns).to(device)


class _Given(nn.Module):
    """A linear layer that returns a copy of a given tensor."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.y = y

    def forward(self, _x: Tensor) -> Tensor:
        """Return a copy, because PEFT writes into the result."""
        return self.y.clone()


def _compare(
    name: str, case: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], who: str,
    goal: float | None, repeats: int,
) -> Result:  # fmt: skip
    with torch.no_grad():
        return compare(
            name, case, ours, theirs, opponent_name=who, goal=goal, repeats=repeats,
            verify=lambda: torch.allclose(
                ours().flatten(), theirs().flatten(), rtol=1e-4, atol=1e-4
            ),
        )  # fmt: skip
