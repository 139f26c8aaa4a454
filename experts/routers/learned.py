"""Trained routers: softmax (dense or top-k), X-LoRA's gate, ReMix.

Shape suffixes: B sequences, T tokens, D width, A arms, L decisions (layers), K chosen.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmore.experts.routers.base import Router, keep_top, largest
from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.features import Features
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import TEMPERATURE, DomainRouter


class LinearRouter(Router):
    """Logits from a row and a bias per arm and decision, all zero at first, so all arms are alike.

    If it starts from domain embeddings, it adds the domain router's logits. Before any training it
    then decides like that router (FlexOlmo's router tuning, arXiv 2507.07024, section 3). In that
    case the domain router's temperature and threshold are trained too: how much evidence counts,
    and how much each further token favours an arm by itself.
    """

    learned: ClassVar[bool] = True
    arm_axes: ClassVar[dict[str, int]] = {"rows_LAD": 1, "bias_LA": 1, "lean_A": 0}
    expert_axes: ClassVar[dict[str, int]] = {"domain.rows_ED": 0, "domain.bias_E": 0}

    def __init__(self, spec: RouterSpec) -> None:
        super().__init__(spec)
        self.features = Features(spec)
        self.rows_LAD = nn.Parameter(torch.zeros(spec.layers, spec.arms, spec.width))
        self.bias_LA = nn.Parameter(torch.zeros(spec.layers, spec.arms))
        self.domain: DomainRouter | None = None
        if spec.init == "domain":
            self.domain = DomainRouter(replace(spec, kind="domain", init="zero"))
            self.trust = nn.Parameter(torch.full((1,), TEMPERATURE))
            self.lean_A = nn.Parameter(torch.zeros(spec.arms))

    def buffer_limits(self) -> Mapping[str, float]:
        """Of the features; the domain router's numbers are in units of the base's embeddings."""
        known = dict.fromkeys(self.domain.state_dict(), math.inf) if self.domain else {}
        return self.features.limits("features") | {f"domain.{k}": most for k, most in known.items()}

    def inputs(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Inputs of a decision, [B, T, …]: features, then the number of tokens, then evidence."""
        features: Tensor = self.features(x_BTD, slot, memory)
        if self.domain is None:
            return features
        evidence_BTE, count_BT1 = self.domain.evidence(x_BTD, memory)
        counts = count_BT1.float().expand(*evidence_BTE.shape[:-1], 1)
        return torch.cat([features, counts, evidence_BTE], dim=-1)

    def logits(self, inputs: Tensor, slot: int) -> Tensor:
        """Logits of every arm, float32 [..., A]."""
        width = self.spec.width
        rows, bias = self.rows_LAD[slot], self.bias_LA[slot]
        logits: Tensor = width**-0.5 * inputs[..., :width] @ rows.T + bias
        if self.domain is None:
            return logits
        count, evidence = inputs[..., width : width + 1], inputs[..., width + 1 :]
        known = nn.functional.pad(self.trust * evidence, (1, 0))
        return logits + known + TEMPERATURE * count * self.lean_A


class SoftmaxRouter(LinearRouter):
    """A softmax over all arms that keeps the `top_k` largest experts (0 keeps all: dense).

    As in transformers' FlexOlmo and in MixLoRA, the softmax comes before the top-k. The weight of
    the other experts goes to the public expert (`keep_top`).
    """

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Return the weights of one decision, [B, T, A]."""
        logits = self.logits(self.inputs(x_BTD, slot, memory), slot)
        if memory.recorded is not None:
            memory.recorded.append(logits)
        return keep_top(torch.softmax(logits, dim=-1), self.spec.top_k).to(x_BTD.dtype)


class XLoraRouter(Router):
    """X-LoRA's gate (arXiv 2402.07148): a small MLP on hidden states, with two forward passes.

    The first pass is the base's alone. Its last hidden states give the weights of every layer in
    the second pass. The MLP's last layer starts at zero, so all arms are alike.
    """

    learned: ClassVar[bool] = True
    per_layer: ClassVar[bool] = True
    two_pass: ClassVar[bool] = True
    arm_axes: ClassVar[dict[str, int]] = {"out_LAH": 1, "bias_LA": 1}

    def __init__(self, spec: RouterSpec) -> None:
        super().__init__(spec)
        self.features = Features(spec)
        self.inner = nn.Linear(spec.width, spec.hidden)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            limit = spec.width**-0.5
            self.inner.weight.uniform_(-limit, limit, generator=generator)
            self.inner.bias.zero_()
        self.out_LAH = nn.Parameter(torch.zeros(spec.layers, spec.arms, spec.hidden))
        self.bias_LA = nn.Parameter(torch.zeros(spec.layers, spec.arms))

    def buffer_limits(self) -> Mapping[str, float]:
        """Of the features."""
        return self.features.limits("features")

    def plan(self, hidden_BTD: Tensor, memory: Memory) -> None:
        """Keep the gate's hidden activations of these tokens, [B, T, H]."""
        features = self.features(hidden_BTD, 0, memory)
        memory.planned = nn.functional.silu(self.inner(features))

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Return the weights of one block, [B, T, A], from the planned activations."""
        if memory.planned is None:
            raise RuntimeError("X-LoRA's first pass has not been made")
        logits = memory.planned @ self.out_LAH[slot].T + self.bias_LA[slot]
        if memory.recorded is not None:
            memory.recorded.append(logits)
        return keep_top(torch.softmax(logits, dim=-1), self.spec.top_k).to(x_BTD.dtype)


class RemixRouter(LinearRouter):
    """ReMix (arXiv 2603.10160): constant weights, so the effective sample size is k.

    ``q = softmax(P x)``. It uses `top_k` distinct arms with equal weights: the most probable ones
    at inference, an ordered draw in training (`fedmore.experts.routers.sampling`). The paper's
    weights 2 / (k r) and 2 / sqrt(k r) include the adapter's scale 2 / r or 2 / sqrt(r), which our
    factors contain already. So the weight is 1 / k (`scaling` lora) or 1 / sqrt(k)
    (rank_stabilised). The public expert is an arm like the others, without a change of its own.
    """

    def log_q(self, inputs: Tensor, slot: int) -> Tensor:
        """Log probabilities of a single draw, [..., A]."""
        return torch.log_softmax(self.logits(inputs, slot), dim=-1)

    @property
    def weight(self) -> float:
        """The weight of every chosen arm."""
        k = self.spec.top_k
        return 1 / k if self.spec.scaling == "lora" else k**-0.5

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Return the weights of one decision, [B, T, A].

        The choice is drawn if the memory has `draw`.
        """
        inputs = self.inputs(x_BTD, slot, memory)
        log_q = self.log_q(inputs, slot)
        if memory.draw is None:
            chosen = largest(log_q, self.spec.top_k)
        else:
            chosen = memory.draw(slot, inputs, log_q)
        return self.weights_of(chosen).to(x_BTD.dtype)

    def weights_of(self, chosen_K: Tensor) -> Tensor:
        """Weights of all arms, [..., A], for the chosen ones."""
        arms = torch.zeros(*chosen_K.shape[:-1], self.spec.arms, device=chosen_K.device)
        return arms.scatter_(-1, chosen_K, self.weight)
