"""Which routers the study compares, and how much work each seed gets."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from fedmore.experts.routers.spec import Kind, Level, RouterSpec, Scaling, Start, is_per_layer

RATE, FINE = 0.1, 0.03
"""Learning rates that were found on seed 0, on the texts to train on: FINE where RATE diverges."""

AT, CLIENTS = "coordinator", "clients"


@dataclass(frozen=True)
class Variant:
    """One row of the study; `samples` (M) is ReMix's, `rate` the learning rate."""

    name: str
    kind: Kind
    k: int = 0
    level: Level = "sequence"
    per_layer: bool = False
    samples: int = 0
    scaling: Scaling = "lora"
    start: Start = "zero"
    trained_at: str = ""
    rate: float = RATE

    def spec(self, experts: int, width: int, blocks: int) -> RouterSpec:
        """Over so many experts in so many blocks."""
        return RouterSpec(
            self.kind, experts, width, blocks if self.layered else 1, self.level,
            top_k=self.k, scaling=self.scaling, start=self.start,
        )  # fmt: skip

    @property
    def layered(self) -> bool:
        """A decision in every routed block."""
        return self.per_layer or is_per_layer(self.kind)

    @property
    def tabled(self) -> bool:
        """A ReMix whose losses are numbers for ever: one decision for all layers and the text."""
        return self.kind == "remix" and not self.layered and self.level != "token"

    @property
    def slug(self) -> str:
        """What tells it from all others, as a file name."""
        return "-".join(self._parts())

    def _parts(self) -> Iterator[str]:
        for key, value in asdict(self).items():
            if key not in ("name", "rate") and value:
                yield str(value) if isinstance(value, str) else f"{key}{int(value)}"


@dataclass(frozen=True)
class Size:
    """Work a seed.

    Every domain gives `windows` windows of `tokens` tokens to train on, and every text `documents`
    documents of so many tokens to score. A step is `batch` windows; a router is trained for `steps`
    of them, a ReMix whose losses are in a table for `table_steps`. At the clients it is trained in
    `rounds` rounds of `client_steps` steps of half a batch each.
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
