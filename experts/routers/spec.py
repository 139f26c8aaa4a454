"""What a router is, apart from its numbers: enough to make it anew on another machine."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from fedmore.experts.errors import ConfigError
from fedmore.experts.plugins import Table

Level = Literal["token", "sequence", "request"]
Scaling = Literal["lora", "rank_stabilised"]
Start = Literal["zero", "domain"]

KINDS = ("uniform", "domain", "arrow", "softmax", "xlora", "remix")
LEARNED = ("softmax", "xlora", "remix")
STARTED = ("softmax", "remix")
PER_LAYER = ("arrow", "xlora")
"""Built-in kinds; what a plugin's router is, its class says."""

ROUTERS = Table("router", KINDS)
"""All kinds, those of plugins among them."""

Kind = Annotated[str, AfterValidator(ROUTERS.check)]
"""A kind of router; a configuration or task that names an unknown one is refused."""


def is_learned(kind: str) -> bool:
    """Whether routers of this kind are trained; imports the plugin if it is one's."""
    return kind in LEARNED or (kind not in KINDS and _class_of(kind).learned)


def is_per_layer(kind: str) -> bool:
    """Whether they always decide in every layer; imports the plugin if it is one's."""
    return kind in PER_LAYER or (kind not in KINDS and _class_of(kind).per_layer)


def _class_of(kind: str) -> Any:
    from fedmore.experts.routers.serialization import router_class  # imports torch

    return router_class(kind)


@dataclass(frozen=True)
class RouterSpec:
    """Shape and rules of a router over `experts` experts and the public one.

    `layers` is 1 for a decision that all layers share, made from the input embeddings, or the
    number of routed blocks, each with a decision made from its own input. `level` says what a
    decision is made from: the token; all tokens so far; or, for the whole request, its first
    `prefix` tokens. `top_k` arms are used at most (0: all); for ReMix the public expert is one of
    them. `scaling` is ReMix's; `hidden` the width of the X-LoRA gate. A softmax or ReMix router
    with one decision for all layers may `start` from domain embeddings.
    """

    kind: Kind
    experts: int
    width: int
    layers: int = 1
    level: Level = "sequence"
    prefix: int = 32
    top_k: int = 2
    scaling: Scaling = "lora"
    hidden: int = 64
    start: Start = "zero"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for what no router can be."""
        if self.kind not in ROUTERS:
            raise ConfigError(f"router {self.kind!r}: there are {ROUTERS.listed()}")
        if self.kind == "remix" and not 1 <= self.top_k <= self.arms:
            raise ConfigError(
                f"ReMix chooses from 1 to {self.arms} of {self.arms} arms, not top_k {self.top_k}"
            )
        if min(self.layers, self.width, self.prefix, self.hidden) < 1 or self.top_k < 0:
            raise ConfigError("layers, width, prefix and hidden of a router are 1 or more")
        if self.start == "domain" and (self.kind not in STARTED or self.layers > 1):
            raise ConfigError(
                f"a start from domain embeddings is for {' and '.join(STARTED)} with one decision "
                f"for all layers, not for {self.kind} with {self.layers}"
            )

    @property
    def arms(self) -> int:
        """Choices: the public expert, then the others in their order."""
        return self.experts + 1

    def of(self, experts: int) -> "RouterSpec":
        """The same over another number of experts; ReMix chooses at most as many as there are."""
        top_k = min(self.top_k, experts + 1) if self.kind == "remix" else self.top_k
        return replace(self, experts=experts, top_k=top_k)

    def table(self) -> dict[str, Any]:
        """The spec as a value for JSON."""
        return asdict(self)
