"""The section `[router]` of `federation.toml`."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from fedmore.coordinator.config.fields import Name
from fedmore.experts.routers.spec import STARTED, Granularity, Init, Kind, Scaling
from fedmore.strategies.settings import STRICT, not_negative, positive


@dataclass(frozen=True, config=STRICT)
class RouterSection:
    """How the mixture chooses among its experts, and how that is learned.

    A router that is learned is `trained_at` the coordinator, on the `proxy_texts`, or at the
    clients, by a stage of the plan. See `fedmore.experts.routers.spec` and
    `fedmore.experts.router_training.gradient`.
    """

    kind: Annotated[
        Kind,
        Field(description="uniform, domain (embeddings), arrow, softmax, xlora, remix (REINFORCE)"),
    ] = "domain"
    top_k: Annotated[
        int, Field(description="experts that work on a token, beside the base; 0 for all")
    ] = 2
    public_text: Annotated[
        str, Field(description="path of text that stands for the base in the router")
    ] = ""
    granularity: Annotated[
        Granularity,
        Field(description="what a decision is made from: token, sequence (all so far) or request"),
    ] = "sequence"
    prefix_tokens: Annotated[
        int, Field(description="number of first tokens by which a request is decided")
    ] = 32
    per_layer: Annotated[
        bool, Field(description="a decision for every layer, or one that all share")
    ] = False
    scaling: Annotated[
        Scaling,
        Field(description="ReMix's constant weights: lora (1/k) or rank_stabilised (1/sqrt k)"),
    ] = "lora"
    init: Annotated[
        Init,
        Field(description="softmax, remix before training: zero (all alike), domain (embeddings)"),
    ] = "zero"
    trained_at: Annotated[
        Literal["coordinator", "clients"],
        Field(description="coordinator (on proxy_texts) or clients (a stage of kind routing)"),
    ] = "coordinator"
    proxy_texts: Annotated[
        dict[Name, str],
        Field(description="name = path of public text like a domain's, to train the router on"),
    ] = field(default_factory=dict)
    steps: Annotated[int, Field(description="optimiser steps at the coordinator")] = 24
    batch_size: Annotated[int, Field(description="windows per step")] = 8
    sequence_length: Annotated[int, Field(description="tokens per window")] = 64
    learning_rate: Annotated[float, Field(description="of AdamW, for the router")] = 0.03
    num_selections: Annotated[
        int, Field(description="ReMix: selections tried of every window (M)")
    ] = 4
    entropy_weight: Annotated[float, Field(description="ReMix: how much variety is worth")] = 0.0
    balance_weight: Annotated[
        float, Field(description="softmax, xlora: weight of the load-balance loss")
    ] = 0.01
    z_loss_weight: Annotated[
        float, Field(description="softmax, xlora: weight of the loss on the size of logits")
    ] = 1e-3
    experts_learning_rate: Annotated[
        float, Field(description="of the experts, trained with the router; 0 freezes them")
    ] = 0.0

    @property
    def embeds(self) -> bool:
        """Whether it is made from the clients' domain embeddings."""
        return self.kind == "domain" or self.init == "domain"

    def __post_init__(self) -> None:
        """Reject values that no router could use."""
        positive(
            prefix_tokens=self.prefix_tokens,
            steps=self.steps,
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            learning_rate=self.learning_rate,
        )
        not_negative(
            top_k=self.top_k,
            entropy_weight=self.entropy_weight,
            balance_weight=self.balance_weight,
            z_loss_weight=self.z_loss_weight,
            experts_learning_rate=self.experts_learning_rate,
        )
        if self.kind == "remix" and self.num_selections < 2:
            raise ValueError(
                f"num_selections must be 2 or more for ReMix, not {self.num_selections}"
            )
        if self.kind == "remix" and self.top_k < 1:
            raise ValueError("top_k must be 1 or more for ReMix")
        if self.init == "domain" and (self.kind not in STARTED or self.per_layer):
            raise ValueError(
                f"init: domain embeddings are for {' and '.join(STARTED)} without per_layer"
            )
