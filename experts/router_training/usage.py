"""Measures which experts each token uses."""

import torch
from torch import Tensor

from fedmore.experts.mixture.model import Mixture
from fedmore.experts.routers.context import Memory


@torch.inference_mode()
def usage(mixture: Mixture, ids_BT: Tensor) -> Tensor:
    """Mean weight over the decisions of every arm at every token, [B * T, A], float64."""
    return by_decision(mixture, ids_BT).mean(0)


@torch.inference_mode()
def by_decision(mixture: Mixture, ids_BT: Tensor) -> Tensor:
    """Weight of every arm at every token in every decision, [L, B * T, A], float64, on the CPU.

    Only the decoder runs; if all layers share the decision, only the embeddings are computed.
    """
    gates, model = mixture.gates, mixture.model
    ids = ids_BT.to(model.device)
    found: list[Tensor] = []
    if mixture.router.shared:
        x_BTD = model.get_input_embeddings()(ids)
        found.append(mixture.router(x_BTD, 0, Memory.of(x_BTD)))
    else:
        with gates.asking(watch=found):
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return torch.stack([w.flatten(0, 1).double().cpu() for w in found])
