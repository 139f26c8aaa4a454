"""The routers that the study compares, and the work per seed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from fedmore.experts.routers.spec import Granularity, Init, Kind, RouterSpec, Scaling, is_per_layer

RATE, FINE = 0.1, 0.03
"""Learning rates found on seed 0 and its training texts.

FINE is for routers that diverge at RATE.
"""

AT, CLIENTS = "coordinator", "clients"


@dataclass(frozen=True)
class Variant:
    """One row of the study; `samples` is M for ReMix, `rate` the learning rate."""

    name: str
    kind: Kind
    k: int = 0
    level: Granularity = "sequence"
    per_layer: bool = False
    samples: int = 0
    scaling: Scaling = "lora"
    start: Init = "zero"
    trained_at: str = ""
    rate: float = RATE

    def spec(self, experts: int, width: int, blocks: int) -> RouterSpec:
        """The router's spec for this number of experts and blocks."""
        return RouterSpec(
            self.kind, experts, width, blocks if self.layered else 1, self.level,
            top_k=self.k, scaling=self.scaling, init=self.start,
        )  # fmt: skip

    @property
    def layered(self) -> bool:
        """Whether it decides in every routed block."""
        return self.per_layer or is_per_layer(self.kind)

    @property
    def tabled(self) -> bool:
        """Whether it is a ReMix with one decision for all layers and the text (fixed losses)."""
        return self.kind == "remix" and not self.layered and self.level != "token"

    @property
    def slug(self) -> str:
        """A unique name for files."""
        return "-".join(self._parts())

    def _parts(self) -> Iterator[str]:
        for key, value in asdict(self).items():
            if key not in ("name", "rate") and value:
                yield str(value) if isinstance(value, str) else f"{key}{int(value)}"


@dataclass(frozen=True)
class Size:
    """The work per seed.

    Every domain gives `windows` training windows of `tokens` tokens. Every text gives `documents`
    documents to score, cut to `tokens` tokens. A step uses `batch` windows. A router is trained for
    `steps` steps, a ReMix with its losses in a table for `table_steps`. Clients train it in
    `rounds` rounds of `client_steps` steps with half a batch each.
    """

    windows: int = 12
    tokens: int = 48
    steps: int = 20
    batch: int = 8
    table_steps: int = 1000
    documents: int = 48
    rounds: int = 2
    client_steps: int = 8


FULL = Size()
QUICK = Size(4, 32, steps=3, batch=4, table_steps=12, documents=2, rounds=1, client_steps=4)


def _variants() -> Iterator[Variant]:
    yield Variant("uniform", "uniform")
    for k in (1, 2, 4):
        yield Variant("domain embeddings", "domain", k)
    yield Variant("Arrow", "arrow", 2, "token")
    yield Variant("softmax, dense", "softmax", trained_at=AT)
    yield Variant("softmax, dense, tokens, layers", "softmax", 0, "token", True, trained_at=AT)
    for k in (1, 2, 4):
        yield Variant("softmax, top-k", "softmax", k, trained_at=AT)
    yield Variant("softmax, dense, from domains", "softmax", start="domain", rate=FINE,
                  trained_at=AT)  # fmt: skip
    yield Variant("X-LoRA gate", "xlora", 0, "token", True, rate=FINE, trained_at=AT)
    for k, samples in ((1, 4), (2, 2), (2, 4), (2, 8), (2, 16), (4, 4)):
        yield Variant("ReMix", "remix", k, samples=samples, trained_at=AT)
    for k in (1, 2):
        yield Variant("ReMix, from domains", "remix", k, samples=4, start="domain", trained_at=AT)
    yield Variant("ReMix, request", "remix", 1, "request", samples=4, trained_at=AT)
    yield Variant("ReMix, rank-stabilised", "remix", 2, samples=4, scaling="rank_stabilised",
                  trained_at=AT)  # fmt: skip
    yield Variant("ReMix, layers", "remix", 2, per_layer=True, samples=4, trained_at=AT)
    yield Variant("softmax, dense, from domains", "softmax", start="domain", rate=FINE,
                  trained_at=CLIENTS)  # fmt: skip
    yield Variant("ReMix, from domains", "remix", 1, samples=4, start="domain", trained_at=CLIENTS)


VARIANTS = tuple(_variants())
