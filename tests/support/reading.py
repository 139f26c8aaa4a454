"""The attack that read an owner's text word for word, as a hostile coordinator plays it.

A change that comes with a task makes the model say the same at every position. What one position
then sends back into the last block depends on its next token alone::

    delta(y) = W (I - u u^T) E^T (p - e_y)

with u what the model says, p its probabilities, E the head and W the weights of the last norm. The
first left singular direction of the update of B in the last block is that delta, for a window of
one token; so the candidate y whose delta is nearest names the token.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedmore.experts.factors import Factors
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.spec import TargetModule

SIZE = 1e4
"""How much larger than the base's own matrix the change of the reported attack is."""


@dataclass(frozen=True)
class Trap:
    """The change, and what its maker knows about the model under it."""

    change: Factors
    path: str
    deltas: Tensor  # [V, D]


def make_trap(
    model: Any, sites: tuple[TargetModule, ...], public_WT: Tensor, size: float = SIZE
) -> Trap:
    """A trap of rank 1 in the last block; `size` is its spectral norm over the base's own."""
    path = sites[-1].path
    site, layer = sites[-1], model.get_submodule(path)
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _m, inputs, _y: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model(input_ids=public_WT)
    hook.remove()
    inner_NI = torch.cat([x.flatten(0, -2) for x in seen]).double()
    a_I = torch.linalg.svd(inner_NI, full_matrices=False)[2][0]
    a_I = a_I * torch.sign((inner_NI @ a_I).mean())
    norm = float(torch.linalg.matrix_norm(layer.weight.double(), 2))
    u_O = torch.randn(
        site.out_features, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    b_O1 = (size * norm * u_O / u_O.norm())[:, None]
    change = {
        s.path: (torch.zeros(s.out_features, 1), torch.zeros(1, s.in_features)) for s in sites
    }
    change[path] = (b_O1.float(), a_I[None].float())
    return Trap(change, path, _deltas(model, change, public_WT))


@torch.no_grad()
def _deltas(model: Any, change: Factors, public_WT: Tensor) -> Tensor:
    """For every next token, the direction that it sends back into the last block: [V, D]."""
    changed = with_change(model, change)
    hidden_ND = changed.model(input_ids=public_WT).last_hidden_state.flatten(0, -2).double()
    logits_NV = changed(input_ids=public_WT).logits.flatten(0, -2).double()
    weight_D = changed.model.norm.weight.double()
    u_D = (hidden_ND / weight_D).mean(0)
    u_D = u_D / u_D.norm()
    p_V = logits_NV.softmax(-1).mean(0)
    head_VD = changed.get_output_embeddings().weight.double()
    back_VD = (p_V @ head_VD - head_VD) * weight_D
    return back_VD - (back_VD @ u_D)[:, None] * u_D


def read_token(trap: Trap, update_b_OR: Tensor) -> tuple[int, Tensor]:
    """The token that an update names, and how near each candidate comes [V]."""
    direction_D = torch.linalg.svd(update_b_OR.double(), full_matrices=False)[0][:, 0]
    deltas_VD = trap.deltas / trap.deltas.norm(dim=1, keepdim=True)
    signs_VD = deltas_VD.sign() / deltas_VD.shape[1] ** 0.5  # AdamW's first step is of signs
    scores_V = torch.maximum((deltas_VD @ direction_D).abs(), (signs_VD @ direction_D).abs())
    return int(scores_V.argmax()), scores_V
