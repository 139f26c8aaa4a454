"""Records which experts the first tokens of a held-out document use, for the report's heat map."""

from typing import TYPE_CHECKING, Any

import torch

from fedmore.experts.mixture.model import Mixture
from fedmore.experts.router_training.usage import by_decision
from fedmore.experts.text.pieces import pieces

if TYPE_CHECKING:  # it imports this module
    from fedmore.coordinator.mixture.evaluate import Scorer

SHOWN = 40
DIGITS = 3


def tokens_used(scorer: "Scorer", mixture: Mixture, text: str) -> list[dict[str, Any]]:
    """Return `{text, weights}` of the first tokens of a text's first document, without the opener.

    The weights are those by which the token is predicted, averaged over the decisions, in the order
    of `routing`: the public expert first. The texts are the coordinator's own files, so they may be
    shown to everybody who sees the scores.
    """
    tokenizer = scorer.base.tokenizer
    ids = scorer.base.text.document(scorer.documents(text)[0])[: SHOWN + 1]
    if len(ids) < 2:
        return []
    weights = by_decision(mixture, torch.tensor([ids[:-1]]))
    return [
        {"text": piece.text, "weights": [round(w, DIGITS) for w in piece.mean.tolist()]}
        for piece in pieces(tokenizer, ids, weights)
    ]
