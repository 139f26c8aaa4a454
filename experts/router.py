"""Routers: which experts a token uses, and with what weight.

A router sees the base's input embeddings and gives one weight per expert and token; what is left of
1 is the public expert's. The same weights hold in every layer. It is causal: the weights of a token
depend on it and the tokens before it.

Shape suffixes: B sequences, T tokens, D width, E experts.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

SHRINKAGE = 0.1
TEMPERATURE = 0.3
THRESHOLD = 0.55


class Router(Protocol):
    """What a mixture needs of a router."""

    kind: str

    def __call__(self, embeddings_BTD: Tensor) -> Tensor:
        """Weights [B, T, E], each at least 0 and summing to at most 1 over E."""
        ...


class UniformRouter(nn.Module):
    """Every expert, and the public one, with the same weight."""

    kind = "uniform"

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, embeddings_BTD: Tensor) -> Tensor:
        """``1 / (E + 1)`` everywhere."""
        shape = (*embeddings_BTD.shape[:2], self.experts)
        return embeddings_BTD.new_full(shape, 1 / (self.experts + 1))


class DomainRouter(nn.Module):
    """Rows from domain embeddings, without training (FlexOlmo, arXiv 2507.07024, section 3).

    Row i is the linear discriminant between domain i and public text,
    ``r_i = C^-1 (mu_i - mu_0)``, from the mean input embedding of each domain and the mean and
    covariance of public text. ``(e - mu_0) r_i / D_i^2``, ``D_i^2 = (mu_i - mu_0) r_i``, is 0 on
    average on public text and 1 on domain i; what exceeds `THRESHOLD` adds up over the tokens so
    far, as evidence does (log-likelihood ratio of two Gaussians, tempered by `TEMPERATURE` since
    tokens are not independent). A softmax with the public expert at logit 0 gives the weights: the
    same for all at the start, where nothing is known. The `top_k` experts of the largest weight are
    kept, not renormalised: the others' weight goes to the public expert, which costs nothing more.
    """

    kind = "domain"
    rows_ED: Tensor
    bias_E: Tensor
    origin_D: Tensor

    def __init__(self, rows_ED: Tensor, bias_E: Tensor, origin_D: Tensor, top_k: int) -> None:
        super().__init__()
        self.register_buffer("rows_ED", rows_ED.float())
        self.register_buffer("bias_E", bias_E.float())
        self.register_buffer("origin_D", origin_D.float())
        self.top_k = top_k

    def forward(self, embeddings_BTD: Tensor) -> Tensor:
        """Weights [B, T, E]; the first token of a sequence, its start token, is no evidence."""
        centred = embeddings_BTD.float() - self.origin_D
        evidence = centred @ self.rows_ED.T - self.bias_E
        evidence[:, 0] = 0
        logits = TEMPERATURE * evidence.cumsum(1)
        public = torch.zeros_like(logits[..., :1])
        weights = torch.softmax(torch.cat([public, logits], dim=-1), dim=-1)
        return keep_top(weights[..., 1:], self.top_k).to(embeddings_BTD.dtype)


def keep_top(weights: Tensor, k: int) -> Tensor:
    """`weights` with all but the k largest of the last dimension set to 0."""
    if k >= weights.shape[-1]:
        return weights
    chosen = weights.topk(k, dim=-1).indices
    return weights * torch.zeros_like(weights).scatter_(-1, chosen, 1.0)


def domain_router(means: Mapping[str, Tensor], public_ND: Tensor, top_k: int) -> DomainRouter:
    """The router of the experts in `means` (mean embedding [D] by name, in order).

    `public_ND` are embeddings of public text. The covariance is shrunk by `SHRINKAGE` of its mean
    variance, so few tokens do.
    """
    public = public_ND.double()
    origin = public.mean(0)
    centred = public - origin
    covariance = centred.T @ centred / len(public)
    ridge = SHRINKAGE * covariance.diagonal().mean().clamp_min(1e-12)
    covariance += ridge * torch.eye(len(origin), dtype=torch.float64)
    offsets_ED = torch.stack([mean.double().cpu() - origin for mean in means.values()])
    rows_ED = torch.linalg.solve(covariance, offsets_ED.T).T
    distances_E = (offsets_ED * rows_ED).sum(1)
    return DomainRouter(rows_ED, THRESHOLD * distances_E, origin, top_k)
