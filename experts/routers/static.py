"""Routers without training: uniform, domain embeddings, Arrow.

Shape suffixes: B sequences, T tokens, D width, E experts, L decisions (layers).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fedmore.experts.base.ffn import FIRST
from fedmore.experts.factors import Change, Factors
from fedmore.experts.routers.base import Router, keep_top, largest, with_public
from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.features import normalised
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import in_ffn, layer_of

SHRINKAGE = 0.1
TEMPERATURE = 0.3
THRESHOLD = 0.55
EVIDENCE = -1
"""The memory's slot for the evidence, which is no layer's slot."""


class UniformRouter(Router):
    """Gives every expert and the public one the same weight."""

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Return ``1 / (E + 1)`` for all arms, [B, T, A]."""
        return x_BTD.new_full((*x_BTD.shape[:2], self.spec.arms), 1 / self.spec.arms)


class DomainRouter(Router):
    """Rows from domain embeddings, without training (FlexOlmo, arXiv 2507.07024, section 3).

    Row i is the linear discriminant between domain i and public text, ``r_i = C^-1 (mu_i - mu_0)``,
    from the mean input embedding of each domain and the mean and covariance of public text. ``(e -
    mu_0) r_i / D_i^2``, ``D_i^2 = (mu_i - mu_0) r_i``, is 0 on average on public text and 1 on
    domain i. The excess over `THRESHOLD` adds up over the tokens so far, as evidence does (log-
    likelihood ratio of two Gaussians, tempered by `TEMPERATURE` since tokens are not independent).
    A softmax with the public expert at logit 0 gives the weights, which are equal before the first
    token. The `top_k` experts of the largest weight are kept. The weight of the others goes to the
    public expert, which costs nothing more.
    """

    expert_axes: ClassVar[dict[str, int]] = {"rows_ED": 0, "bias_E": 0}
    rows_ED: Tensor
    bias_E: Tensor
    origin_D: Tensor

    def __init__(self, spec: RouterSpec) -> None:
        super().__init__(spec)
        self.register_buffer("rows_ED", torch.zeros(spec.experts, spec.width))
        self.register_buffer("bias_E", torch.zeros(spec.experts))
        self.register_buffer("origin_D", torch.zeros(spec.width))

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Weights of the one decision."""
        experts = TEMPERATURE * self.evidence(x_BTD, memory)[0]
        public = experts.new_zeros(*experts.shape[:-1], 1)
        arms = torch.softmax(torch.cat([public, experts], dim=-1), dim=-1)
        return keep_top(arms, self.spec.top_k).to(x_BTD.dtype)

    def evidence(self, x_BTD: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Evidence for every expert, float32 [B, T, E], and the number of its tokens, [B, T, 1].

        A sequence's start token does not count.
        """
        evidence = (x_BTD.float() - self.origin_D) @ self.rows_ED.T - self.bias_E
        limit = self.spec.prefix_tokens if self.spec.granularity == "request" else 0
        if self.spec.granularity == "token":
            counted = memory.evidence[..., None].float()
            return evidence * counted, counted
        return memory.running(EVIDENCE, evidence, limit)


def domain_router(spec: RouterSpec, means: Sequence[Tensor], public_ND: Tensor) -> DomainRouter:
    """Make the router of experts whose mean input embeddings [D] are `means`.

    `public_ND` are embeddings of public text. The covariance is shrunk by `SHRINKAGE` of its mean
    variance, so that few tokens suffice.
    """
    public = public_ND.double()
    origin = public.mean(0)
    centred = public - origin
    covariance = centred.T @ centred / len(public)
    ridge = SHRINKAGE * covariance.diagonal().mean().clamp_min(1e-12)
    covariance += ridge * torch.eye(len(origin), dtype=torch.float64)
    offsets_ED = torch.stack([mean.double().cpu() - origin for mean in means])
    rows_ED = torch.linalg.solve(covariance, offsets_ED.T).T
    router = DomainRouter(spec)
    router.rows_ED.copy_(rows_ED)
    router.bias_E.copy_(THRESHOLD * (offsets_ED * rows_ED).sum(1))
    router.origin_D.copy_(origin)
    return router


class ArrowRouter(Router):
    """Prototypes from the experts' own weights, without data (Arrow; PEFT's `lora/arrow`).

    An expert's prototype in a layer is the top right singular vector of its change there: the
    direction of input with the largest response. A token's score is ``|x . v|``, since a singular
    vector has no sign; the softmax is over the `top_k` experts of the largest score. Unlike PEFT,
    it makes one decision per block, from the block's normalised input and the gate and up changes
    together. An expert without a change in a layer takes no part there, and neither does the public
    expert anywhere.
    """

    per_layer: ClassVar[bool] = True
    expert_axes: ClassVar[dict[str, int]] = {"prototypes_LED": 1, "present_LE": 1}
    prototypes_LED: Tensor
    present_LE: Tensor

    def __init__(self, spec: RouterSpec) -> None:
        super().__init__(spec)
        shape = (spec.layers, spec.experts, spec.width)
        self.register_buffer("prototypes_LED", torch.zeros(shape))
        self.register_buffer("present_LE", torch.zeros(shape[:2], dtype=torch.bool))

    @property
    def shared(self) -> bool:
        """Always false, since a prototype belongs to its layer."""
        return False

    @torch.no_grad()
    def prepare(self, experts: Mapping[str, Factors], blocks: Sequence[int]) -> None:
        """Compute every expert's prototype in every block that it changes."""
        for index, factors in enumerate(experts.values()):
            for slot, layer in enumerate(blocks):
                pairs = [pair for path, pair in factors.items() if _feeds(path, layer)]
                if pairs:
                    self.prototypes_LED[slot, index] = prototype(pairs)
                    self.present_LE[slot, index] = True

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Return the weights of one block, [B, T, A]."""
        scores = (normalised(x_BTD) @ self.prototypes_LED[slot].T).abs()
        scores = scores.masked_fill(~self.present_LE[slot], -torch.inf)
        k = self.spec.top_k or self.spec.experts
        if k < self.spec.experts:
            chosen = largest(scores, k)
            others = torch.full_like(scores, -torch.inf)
            scores = others.scatter(-1, chosen, scores.gather(-1, chosen))
        # Without any expert in this block the softmax is NaN; then the public expert gets weight 1.
        weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)
        return with_public(weights).to(x_BTD.dtype)


def arrow_router(
    spec: RouterSpec, experts: Mapping[str, Factors], blocks: Sequence[int]
) -> ArrowRouter:
    """Make the router of `experts`, whose changes are in the layers `blocks`, in this order."""
    router = ArrowRouter(spec)
    router.prepare(experts, blocks)
    return router


def prototype(changes: Sequence[Change]) -> Tensor:
    """Top right singular vector [D] of the stacked changes; products B A are not formed."""
    rows = [
        torch.linalg.qr(change[0].double())[1] @ (change[1].double() if len(change) == 2 else 1.0)
        for change in changes
    ]
    right: Tensor = torch.linalg.svd(torch.cat(rows), full_matrices=False)[2][0]
    return right.float()


def _feeds(path: str, layer: int) -> bool:
    return layer_of(path) == layer and in_ffn(path) and path.rpartition(".")[2] in FIRST
