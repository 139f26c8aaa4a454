"""A few training steps after a rank was cut, by a fresh optimiser (LoRA-Squeeze, 2602.10993)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmore.experts.base.model import Base
from fedmore.experts.errors import DataError
from fedmore.experts.factors import Factors
from fedmore.experts.low_rank_linear import moved, overlay, share, with_change
from fedmore.experts.scoring.bits_per_byte import mean_bits_per_byte, score
from fedmore.experts.spec import TargetModule
from fedmore.experts.text.windows import windows

LENGTH, BATCH, RATE, CLIP = 128, 4, 3e-4, 1.0
SCORED, HELD_OUT = 256, 10
"""Tokens of a held-out document that are scored; every tenth document is held out."""


@dataclass(frozen=True)
class Recovery:
    """Factors after recovery, and bits per byte of held-out documents before it and after.

    Without a gain the factors are those from before.
    """

    factors: Factors
    before: float
    after: float


def recovered(
    base: Base, factors: Factors, documents: Sequence[str], steps: int, seed: int
) -> Recovery:
    """Train factors for `steps` steps on documents, of which every tenth only scores the result.

    Raises `DataError` for fewer than two documents.
    """
    held_out = documents[::HELD_OUT]
    trained_on = [text for n, text in enumerate(documents) if n % HELD_OUT]
    if not trained_on:
        raise DataError("recovery needs two documents or more: one of them is held out")
    windows_WT = windows(trained_on, base.text, LENGTH, steps * BATCH, seed)
    found = _train(base.model, factors, windows_WT)

    def scored(change: Factors) -> float:
        model = with_change(base.model, change)
        return mean_bits_per_byte(score(model, base.text, held_out, SCORED))

    before, after = scored(factors), scored(found)
    return Recovery(found if after < before else factors, before, after)


def _train(model: Any, factors: Factors, windows_WT: Tensor) -> Factors:
    sites = [TargetModule(path, len(c[0]), c[-1].shape[1]) for path, c in factors.items()]
    copied = share(model)
    layers = overlay(copied, None, sites)
    for path, change in factors.items():
        layers[path].trainable(moved(change, model.device), 1.0)
    parameters = [(layer.lora_A, layer.lora_B, layer.full) for layer in layers.values()]
    trained = [each for three in parameters for each in three if each is not None]
    optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    for start in range(0, len(windows_WT), BATCH):
        batch = windows_WT[start : start + BATCH].to(model.device)
        logits = copied(input_ids=batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, CLIP)
        optimiser.step()
        optimiser.zero_grad()
    return {path: layer.trained for path, layer in layers.items()}
