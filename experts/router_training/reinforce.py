"""ReMix's training (arXiv 2603.10160): forward losses alone; only the router is differentiated.

A selection is charged with the tokens that it decides: those after the point of decision. Earlier
tokens do not depend on it and would only add noise.

Experts are frozen and weights constant, so the losses of a text under one selection never change.
If all layers share the decision, each pair (window, set of arms) is therefore computed once
(`LossTable`). Otherwise the M selections of a batch run together and share the blocks below the
first routed one.

Shape suffixes: B windows, M selections of each, T tokens, A arms, K chosen, D width.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedmore.experts.mixture.model import Mixture
from fedmore.experts.router_training.gradient import Training, finite, token_losses
from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.sampling import (
    entropy,
    log_probability,
    sample_ordered,
    surrogate,
)

CHUNK = 32
"""Number of windows in one forward pass of the table."""


@dataclass
class Draws:
    """The ordered selections of one step, each with the features that it was decided from.

    Above the token level, a window has one selection, decided from its tokens before `cut`.
    """

    generator: torch.Generator
    samples: int
    cut: int
    by_token: bool
    made: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    def repeated(self, tensor: Tensor, windows: int) -> Tensor:
        """Repeat rows once per selection, unless the batch is that wide already."""
        return tensor if len(tensor) > windows else tensor.repeat_interleave(self.samples, dim=0)

    def draw(self, slot: int, features: Tensor, log_q: Tensor, k: int, windows: int) -> Tensor:
        """Draw the arms of all tokens, [B * M, T, K]."""
        tokens = features.shape[1]
        if not self.by_token:
            features, log_q = features[:, self.cut - 1], log_q[:, self.cut - 1]
        features, log_q = (self.repeated(x, windows) for x in (features, log_q))
        chosen = sample_ordered(log_q, k, self.generator)
        self.made.append((slot, features, chosen))
        return chosen if self.by_token else chosen[:, None].expand(-1, tokens, -1)


class LossTable:
    """Nats per token [T] of windows under sets of arms, each computed once."""

    def __init__(self, mixture: Mixture, windows_WT: Tensor) -> None:
        self.mixture, self.windows_WT = mixture, windows_WT
        self.known: dict[tuple[int, frozenset[int]], Tensor] = {}

    def losses(self, rows: list[int], chosen_BMK: Tensor) -> Tensor:
        """Nats of every token, [B, M, T]; missing ones are computed."""
        keys = [
            [(row, frozenset(arms)) for arms in of_row]
            for row, of_row in zip(rows, chosen_BMK.tolist(), strict=True)
        ]
        wanted = dict.fromkeys(key for of_row in keys for key in of_row if key not in self.known)
        missing = list(wanted)
        for start in range(0, len(missing), CHUNK):
            self._compute(missing[start : start + CHUNK])
        return torch.stack([torch.stack([self.known[key] for key in of_row]) for of_row in keys])

    def _compute(self, keys: list[tuple[int, frozenset[int]]]) -> None:
        router: Any = self.mixture.router
        chosen = torch.tensor([sorted(arms) for _, arms in keys])
        forced = router.weights_of(chosen).to(self.windows_WT.device)
        with self.mixture.gates.asking(forced=forced):
            losses = token_losses(self.mixture.model, self.windows_WT[[row for row, _ in keys]])
        self.known.update(zip(keys, losses.clone().unbind(0), strict=True))


class Reinforce:
    """Gradients of one step by REINFORCE with a leave-one-out baseline."""

    def __init__(
        self,
        mixture: Mixture,
        windows_WT: Tensor,
        training: Training,
        table: LossTable | None = None,
    ) -> None:
        self.mixture, self.windows_WT, self.training = mixture, windows_WT, training
        router: Any = mixture.router
        self.router = router
        self.by_token = router.spec.granularity == "token"
        self.generator = torch.Generator().manual_seed(training.seed)
        # A table needs frozen experts, and a decision that all layers share.
        remembers = router.shared and not self.by_token and not training.experts_learning_rate
        self.table = (table or LossTable(mixture, windows_WT)) if remembers else None
        decisions = 1 if router.shared else len(mixture.gates.blocks)
        self.ess = [float(router.spec.top_k)] * decisions  # since the k weights are equal

    def step(self, _step: int, rows: list[int]) -> float:
        """Compute the gradients of one step; returns its mean loss over windows and selections."""
        samples = self.training.num_selections
        tokens = self.windows_WT.shape[1] - 1
        cut = int(torch.randint(1, tokens + 1, (), generator=self.generator))
        draws = Draws(self.generator, samples, cut, self.by_token)
        differentiated = bool(self.training.experts_learning_rate)
        mode = contextlib.nullcontext() if differentiated else torch.inference_mode()
        with mode:
            losses = self._tabled(rows, draws) if self.table else self._forward(rows, draws)
        losses_BMT = losses.view(len(rows), samples, tokens)
        finite(losses_BMT.mean())
        target = self._target(losses_BMT.detach().clone(), draws)
        if differentiated:
            target = target + losses_BMT.mean()
        target.backward()  # type: ignore[no-untyped-call]
        return float(losses_BMT.detach().mean())

    def _forward(self, rows: list[int], draws: Draws) -> Tensor:
        """Nats [B * M, T] under selections that are drawn during the forward pass."""
        copies, k = self.training.num_selections, self.router.spec.top_k

        def draw(slot: int, features: Tensor, log_q: Tensor) -> Tensor:
            return draws.draw(slot, features, log_q, k, len(rows))

        with self.mixture.gates.asking(copies=copies, draw=draw):
            return token_losses(self.mixture.model, self.windows_WT[rows], copies)

    def _tabled(self, rows: list[int], draws: Draws) -> Tensor:
        ids = self.windows_WT[rows][:, :-1]
        k = self.router.spec.top_k
        with torch.no_grad():
            x_BTD = self.mixture.model.get_input_embeddings()(ids)
            features = self.router.inputs(x_BTD, 0, Memory.of(x_BTD))
            log_q = self.router.log_q(features, 0)
        chosen = draws.draw(0, features, log_q, k, len(rows))[:, 0]
        assert self.table is not None
        return self.table.losses(rows, chosen.view(len(rows), draws.samples, k))

    def _charged(self, losses_BMT: Tensor, cut: int) -> Tensor:
        """The loss charged to each selection: nats divided by T, [B, M, selections of a window]."""
        tokens = losses_BMT.shape[-1]
        if not self.training.masked:
            whole_BM1 = losses_BMT.mean(-1, keepdim=True)
            return whole_BM1.expand_as(losses_BMT) if self.by_token else whole_BM1
        if self.by_token:
            return losses_BMT.flip(-1).cumsum(-1).flip(-1) / tokens
        return losses_BMT[..., cut - 1 :].sum(-1, keepdim=True) / tokens

    def _target(self, losses_BMT: Tensor, draws: Draws) -> Tensor:
        """The differentiated loss: the surrogate minus the weighted entropy."""
        charged_BMS = self._charged(losses_BMT, draws.cut)
        log_probability_BMS = torch.zeros_like(charged_BMS)
        spread = losses_BMT.new_zeros(())
        for slot, features, chosen in draws.made:
            # A tensor from inference mode cannot be saved for a backward pass; a copy can.
            log_q = self.router.log_q(features.clone(), slot)
            found = log_probability(log_q, chosen.clone())
            log_probability_BMS = log_probability_BMS + found.view_as(charged_BMS)
            spread = spread + entropy(log_q).mean() / len(draws.made)
        each_BS = surrogate(charged_BMS.transpose(1, 2), log_probability_BMS.transpose(1, 2))
        return each_BS.sum(-1).mean() - self.training.entropy_weight * spread
