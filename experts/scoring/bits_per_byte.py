"""Bits per byte on held-out documents, a figure that can be compared across tokenizers."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmore.experts.scoring.intervals import Interval, ratio_interval, share_interval
from fedmore.experts.text.tokenization import TextTokenizer


@dataclass(frozen=True)
class Score:
    """One document's negative log likelihood in `nats`, over `size` bytes of text."""

    nats: float
    size: int

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of this document."""
        return self.nats / math.log(2) / self.size


def score(
    model: Any, text: TextTokenizer, documents: Sequence[str], tokens: int, batch: int = 4
) -> list[Score]:
    """Score the first `tokens` tokens of every document, in the given order.

    Every token counts, and the first is predicted from the opener. Without an opener the first
    character is not scored and its bytes do not count. A document is never cut inside a character.
    Documents of similar length share a batch of `batch`. Padding is on the right, where a causal
    model cannot see it.
    """
    found = score_tokens(model, text, documents, tokens, batch)
    return [Score(float(nats_T.sum()), size) for nats_T, size in found]


def score_tokens(
    model: Any, text: TextTokenizer, documents: Sequence[str], tokens: int, batch: int = 4
) -> list[tuple[Tensor, int]]:
    """Do as `score`, but return every document's nats per token, float64 [T], and its bytes."""
    cuts = [text.cut(document, tokens) for document in documents]
    losses = token_losses(model, [cut.ids for cut in cuts], batch)
    pairs = zip(losses, cuts, strict=True)
    return [(nats_T[max(cut.given - 1, 0) :], cut.size) for nats_T, cut in pairs]


@torch.inference_mode()
def token_losses(model: Any, rows: Sequence[Sequence[int]], batch: int = 4) -> list[Tensor]:
    """Nats of every row's tokens but the first, float64 [T - 1]."""
    order = sorted((i for i, row in enumerate(rows) if len(row) > 1), key=lambda i: len(rows[i]))
    found = dict.fromkeys(range(len(rows)), torch.zeros(0, dtype=torch.float64))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        found |= zip(part, _nats(model, [rows[i] for i in part]), strict=True)
    return [found[i] for i in range(len(rows))]


def _nats(model: Any, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.device)
    logits: Tensor = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), ids[:, 1:], reduction="none"
    )
    pairs = zip(losses.cpu().double(), rows, strict=True)
    return [nats_T[: len(row) - 1] for nats_T, row in pairs]


def mean_bits_per_byte(scores: Sequence[Score]) -> float:
    """Bits per byte of all documents together."""
    return sum(s.nats for s in scores) / math.log(2) / sum(s.size for s in scores)


def interval(
    scores: Sequence[Score],
    baseline: Sequence[Score] | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> Interval | None:
    """95 % interval of `mean_bits_per_byte` over documents, by Student's t; None for one document.

    With a `baseline` of the same documents, it is the interval of the paired difference. `clusters`
    names each score's document if documents are scored more than once, as in several seeds.
    """
    nats = np.array([s.nats for s in scores])
    if baseline is not None:
        nats = nats - np.array([s.nats for s in baseline])
    return ratio_interval(nats / math.log(2), [s.size for s in scores], clusters)


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Return `{"mean", "ci95": [low, high] or None}`, in bits per byte, as reports show it."""
    return {"mean": mean_bits_per_byte(scores), "ci95": _listed(interval(scores))}


def difference(scores: Sequence[Score], baseline: Sequence[Score]) -> dict[str, Any]:
    """Return `{"mean", "ci95"}` of the paired difference to `baseline` on the same documents."""
    mean = mean_bits_per_byte(scores) - mean_bits_per_byte(baseline)
    return {"mean": mean, "ci95": _listed(interval(scores, baseline))}


def gain_kept(
    base: Sequence[Score], own: Sequence[Score], mixture: Sequence[Score]
) -> dict[str, Any] | None:
    """Return `{"mean", "ci95"}` of the fraction of the own expert's gain that the mixture keeps.

    The result is None without a gain, and the interval is None if the gain is not clearly above 0.
    """
    base_N, own_N, mixture_N = (np.array([s.nats for s in each]) for each in (base, own, mixture))
    gain = float((base_N - own_N).sum())
    if gain <= 0:
        return None
    kept = float((base_N - mixture_N).sum()) / gain
    return {"mean": kept, "ci95": _listed(share_interval(base_N - mixture_N, base_N - own_N))}


def _listed(found: Interval | None) -> list[float] | None:
    return None if found is None else list(found)
