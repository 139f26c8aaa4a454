"""The forms of FFN that an expert can change, and the trial that shows which form one has.

gated   ``down(act(gate x) * up x)``                      Llama, Gemma, Qwen, …
fused   ``down(up' * act(gate'))``, ``gate', up' = first x``  Phi-3, GLM
plain   ``second(act(first x))``                          GPT-2, GPT-NeoX, Phi, StarCoder2, Arcee, …
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedmore.experts.low_rank_linear import share

ACTIVATIONS = ("act_fn", "act", "activation_fn")
Inner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layout:
    """A form of FFN, and the names of its linear layers in the order in which they are used."""

    form: Literal["gated", "fused", "plain"]
    names: tuple[str, ...]


LAYOUTS = (
    Layout("gated", ("gate_proj", "up_proj", "down_proj")),
    Layout("fused", ("gate_up_proj", "down_proj")),
    Layout("plain", ("up_proj", "down_proj")),
    Layout("plain", ("fc1", "fc2")),
    Layout("plain", ("c_fc", "c_proj")),
    Layout("plain", ("fc_in", "fc_out")),
    Layout("plain", ("dense_h_to_4h", "dense_4h_to_h")),
)
FIRST = frozenset(name for layout in LAYOUTS for name in layout.names[:-1])
"""Names of the layers that read the block's input, not the hidden activations."""


def is_linear(module: nn.Module) -> bool:
    """Whether the module is torch's linear layer or transformers' `Conv1D`, which GPT-2 uses."""
    return isinstance(module, nn.Linear) or (
        type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "nx")
    )


def layout_of(ffn: nn.Module) -> Layout | None:
    """The layout whose linear layers are exactly those of `ffn`, or None."""
    found = {name for name, child in ffn.named_children() if is_linear(child)}
    return next((layout for layout in LAYOUTS if set(layout.names) == found), None)


def inner_of(ffn: Any, layout: Layout) -> Inner:
    """The function between the projections of an FFN; for a gated one, only its activation."""
    act: Inner = next(getattr(ffn, name) for name in ACTIVATIONS if hasattr(ffn, name))
    if layout.form != "fused":
        return act

    def gated(hidden: Tensor) -> Tensor:
        gate, up = hidden.chunk(2, dim=-1)
        return up * act(gate)

    return gated


def shape_of(linear: Any) -> tuple[int, int]:
    """(out, in) of a linear layer; GPT-2's `Conv1D` stores its weight transposed."""
    if not isinstance(linear, nn.Linear):
        return int(linear.nf), int(linear.nx)
    return int(linear.out_features), int(linear.in_features)


def behaves(ffn: nn.Module, layout: Layout) -> bool:
    """Whether `ffn` computes its layout's formula and nothing else.

    The trial runs the FFN on numbers, with cheap linear maps in place of its linear layers. So it
    needs no weights, which may be on the meta device.
    """
    tried: Any = share(ffn).eval()
    for name in layout.names:
        setattr(tried, name, _StandIn(*shape_of(getattr(ffn, name))))
    _renew(tried)
    layers = [getattr(tried, name) for name in layout.names]
    x = torch.linspace(-2, 2, 3 * layers[0].inner, dtype=torch.float64).view(1, 3, -1)
    try:
        with torch.inference_mode():
            found, hidden = tried(x), inner_of(tried, layout)
            wanted = _formula(layers, layout, hidden, x)
    except (TypeError, ValueError, RuntimeError, AttributeError, StopIteration):
        return False  # it takes other arguments, so it is no FFN of a known form
    return isinstance(found, Tensor) and found.shape == x.shape and torch.allclose(found, wanted)


def _formula(layers: list[Any], layout: Layout, hidden: Inner, x: Tensor) -> Tensor:
    if layout.form == "gated":
        gate, up, down = layers
        result: Tensor = down(hidden(gate(x)) * up(x))
    else:
        first, second = layers
        result = second(hidden(first(x)))
    return result


class _StandIn(nn.Module):
    """A linear map of the given shape with one number per row: ``y_j = s_j x_i(j)``."""

    def __init__(self, out: int, inner: int) -> None:
        super().__init__()
        self.inner = inner
        generator = torch.Generator().manual_seed(out * 31 + inner)
        self.index = torch.randint(inner, (out,), generator=generator)
        self.sizes = torch.randn(out, generator=generator, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last dimension."""
        return x[..., self.index] * self.sizes


def _renew(module: nn.Module) -> None:
    """Replace the remaining tensors of `module` by float64 copies; those on meta get numbers."""
    for each in module.modules():
        for kind in (each._parameters, each._buffers):
            for name, tensor in kind.items():
                if tensor is not None:
                    kind[name] = _numbers(tensor)  # type: ignore[assignment]


def _numbers(tensor: Tensor) -> Tensor:
    if tensor.device.type == "meta":
        return torch.linspace(0.5, 1.5, tensor.numel(), dtype=torch.float64).view(tensor.shape)
    return tensor.detach().to("cpu", torch.float64)
