"""FFNs of two projections in a mixture, against sums written out in float64."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from fedmore.experts.base.ffn import behaves, layout_of
from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.ffn_layer import mixture_ffn
from fedmore.experts.quantized import dequantize, quantize
from fedmore.experts.spec import ExpertStorage

D, H, T, RANKS = 6, 10, 8, (1, 3, 4)


class Plain(nn.Module):
    """`fc2(gelu(fc1 x))`, with biases."""

    first, second, width = "fc1", "fc2", H

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(D, H), nn.Linear(H, D), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))

    @staticmethod
    def inner(read: Tensor) -> Tensor:
        return gelu(read)


class Fused(nn.Module):
    """`down_proj(up * silu(gate))`, gate and up in one matrix."""

    first, second, width = "gate_up_proj", "down_proj", 2 * H

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Linear(D, 2 * H), nn.Linear(H, D)
        self.activation_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(up * self.activation_fn(gate))

    @staticmethod
    def inner(read: Tensor) -> Tensor:
        return read[..., H:] * silu(read[..., :H])


FORMS = (Plain, Fused)


def changes(
    ffn: Any, kept: ExpertStorage = ExpertStorage.fp32, train: bool = False
) -> dict[int, Any]:
    made = {}
    for index, rank in enumerate(RANKS):
        factors = {
            ffn.first: (torch.randn(ffn.width, rank) * 0.3, torch.randn(rank, D) * 0.3),
            ffn.second: (torch.randn(D, rank) * 0.3, torch.randn(rank, H) * 0.3),
        }
        made[index] = quantize(factors, kept)
        if train:
            made[index] = {
                k: (b.requires_grad_(), a.requires_grad_()) for k, (b, a) in factors.items()
            }
    return made


def weights() -> Tensor:
    """Some experts are not asked, and some tokens ask none."""
    torch.manual_seed(3)
    weights_TE = torch.rand(T, len(RANKS))
    weights_TE[torch.rand(T, len(RANKS)) < 0.4] = 0
    weights_TE[5] = 0
    return weights_TE


def dense(ffn: Any, made: dict[int, Any], x: Tensor, weights_TE: Tensor) -> Tensor:
    """`F + sum g_i (F_i - F)`, every expert's matrices multiplied out, in float64."""

    def run(change: dict[str, tuple[Tensor, Tensor]] | None) -> Tensor:
        first, second = getattr(ffn, ffn.first), getattr(ffn, ffn.second)
        w1, w2 = first.weight.double(), second.weight.double()
        if change is not None:
            (b1, a1), (b2, a2) = change[ffn.first], change[ffn.second]
            w1, w2 = w1 + b1.double() @ a1.double(), w2 + b2.double() @ a2.double()
        hidden = ffn.inner(x.double() @ w1.T + first.bias.double())
        return hidden @ w2.T + second.bias.double()

    public = run(None)
    parts = [w[:, None].double() * (run(made[i]) - public) for i, w in enumerate(weights_TE.T)]
    return public + sum(parts)


def gates(weights_TE: Tensor) -> Any:
    """What `Gates.flat` reads: the weights of a call, the public expert's first."""
    weights_BTA = torch.cat([1 - weights_TE.sum(1, keepdim=True), weights_TE], 1)[None]
    return SimpleNamespace(_thread=SimpleNamespace(call=SimpleNamespace(weights_BTA=weights_BTA)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", ExpertStorage)
def test_a_mixture_is_the_sum_written_out(form: type, kept: ExpertStorage) -> None:
    torch.manual_seed(0)
    ffn: Any = form()
    made, x, weights_TE = changes(ffn, kept), torch.randn(2, T // 2, D), weights()
    mixed = mixture_ffn(ffn, gates(weights_TE), made)(x)
    used = {index: dequantize(change) for index, change in made.items()}
    wanted = dense(ffn, used, x.flatten(0, 1), weights_TE).view_as(x)
    torch.testing.assert_close(mixed.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_sum_written_out(form: type) -> None:
    torch.manual_seed(0)
    ffn: Any = form().requires_grad_(False)
    made, x = changes(ffn, train=True), torch.randn(2, T // 2, D, requires_grad=True)
    weights_TE = (weights() + 0.1).requires_grad_()  # a weight of zero is no routing: no gradient
    leaves = [x, weights_TE, *(f for c in made.values() for pair in c.values() for f in pair)]
    mixed = mixture_ffn(ffn, gates(weights_TE), made)(x)
    found = torch.autograd.grad(mixed.square().sum(), leaves)
    wanted = dense(ffn, made, x.flatten(0, 1), weights_TE).square().sum()
    for one, other in zip(found, torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_zero_are_the_ffn_bit_for_bit(form: type) -> None:
    ffn: Any = form()
    x = torch.randn(2, T // 2, D)
    mixed = mixture_ffn(ffn, gates(torch.zeros(T, len(RANKS))), changes(ffn))(x)
    assert torch.equal(mixed, ffn(x))


def test_an_expert_of_another_form_is_refused() -> None:
    plain: Any = Plain()
    with pytest.raises(ConfigError, match="do not fit the base's Fused"):
        mixture_ffn(Fused(), gates(weights()), changes(plain))


class Normed(Plain):
    """It does something between its projections that no activation tells of."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.fc1(x))
        return self.fc2(hidden / hidden.norm())


class Swapped(Fused):
    """Gate and up in the other order than Phi-3 has them."""

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(up * self.activation_fn(gate))


class Residual(Plain):
    """It wants the residual, as Bloom's does."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + residual


@pytest.mark.parametrize(
    ("form", "good"),
    [(Plain, True), (Fused, True), (Normed, False), (Swapped, False), (Residual, False)],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_trial_tells_what_an_ffn_computes(form: type, good: bool, device: str) -> None:
    ffn = form().to(device)
    layout = layout_of(ffn)
    assert layout is not None
    assert behaves(ffn, layout) is good
    assert {p.dtype for p in ffn.parameters()} == {torch.float32}  # the trial leaves it as it was
    assert {p.device.type for p in ffn.parameters()} == {device}
