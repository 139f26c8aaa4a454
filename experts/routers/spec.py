"""The specification of a router: all but its numbers, enough to make it on another machine."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from fedmore.experts.errors import ConfigError
from fedmore.experts.former_names import ROUTER, former
from fedmore.experts.plugins import Table

Granularity = Literal["token", "sequence", "request"]
Scaling = Literal["lora", "rank_stabilised"]
Init = Literal["zero", "domain"]

KINDS = ("uniform", "domain", "arrow", "softmax", "xlora", "remix")
LEARNED = ("softmax", "xlora", "remix")
STARTED = ("softmax", "remix")
PER_LAYER = ("arrow", "xlora")
"""Built-in kinds that are trained; for a plugin, its class says so."""

ROUTERS = Table("router", KINDS)
"""All kinds of routers, including those of plugins."""

Kind = Annotated[str, AfterValidator(ROUTERS.check)]
"""A kind of router; validation refuses an unknown one."""


def is_learned(kind: str) -> bool:
    """Whether routers of this kind are trained; imports the plugin if the kind is a plugin's."""
    return kind in LEARNED or (kind not in KINDS and _class_of(kind).learned)


def is_per_layer(kind: str) -> bool:
    """Whether routers of this kind always decide per layer; imports the plugin if needed."""
    return kind in PER_LAYER or (kind not in KINDS and _class_of(kind).per_layer)


def _class_of(kind: str) -> Any:
    from fedmore.experts.routers.serialization import router_class  # imports torch

    return router_class(kind)


@dataclass(frozen=True)
class RouterSpec:
    """Shape and rules of a router over `experts` experts and the public one.

    `layers` is 1 if all layers share one decision, made from the input embeddings. Otherwise it is
    the number of routed blocks, and each decides from its own input. `granularity` is the evidence
    for a decision: the token, all tokens so far, or, for the whole request, its first
    `prefix_tokens` tokens. At most `top_k` arms are used (0: all); in ReMix the public expert is
    one of them. ReMix uses `scaling`; `hidden` is the width of the X-LoRA gate. A softmax or ReMix
    router with one decision for all layers may begin from domain embeddings (`init`).
    """

    kind: Kind
    experts: int
    width: int
    layers: int = 1
    granularity: Granularity = "sequence"
    prefix_tokens: int = 32
    top_k: int = 2
    scaling: Scaling = "lora"
    hidden: int = 64
    init: Init = "zero"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for values that do not fit each other."""
        if self.kind not in ROUTERS:
            raise ConfigError(f"router {self.kind!r}: there are {ROUTERS.listed()}")
        if self.kind == "remix" and not 1 <= self.top_k <= self.arms:
            raise ConfigError(
                f"ReMix chooses from 1 to {self.arms} of {self.arms} arms, not top_k {self.top_k}"
            )
        if min(self.layers, self.width, self.prefix_tokens, self.hidden) < 1 or self.top_k < 0:
            raise ConfigError("layers, width, prefix_tokens and hidden of a router are 1 or more")
        if self.init == "domain" and (self.kind not in STARTED or self.layers > 1):
            raise ConfigError(
                f"a start from domain embeddings is for {' and '.join(STARTED)} with one decision "
                f"for all layers, not for {self.kind} with {self.layers}"
            )

    @property
    def arms(self) -> int:
        """Number of arms: the public expert and the others."""
        return self.experts + 1

    def of(self, experts: int) -> "RouterSpec":
        """Return the spec for another number of experts.

        ReMix's `top_k` is reduced if necessary.
        """
        top_k = min(self.top_k, experts + 1) if self.kind == "remix" else self.top_k
        return replace(self, experts=experts, top_k=top_k)

    def table(self) -> dict[str, Any]:
        """Convert the spec to a table for JSON, with the names that routers' files always had."""
        return former(asdict(self), ROUTER)
