"""Which routers the study compares, and how much work each seed gets."""

from dataclasses import dataclass

from fedmore.experts.routing.spec import PER_LAYER, Kind, Level, RouterSpec, Scaling


@dataclass(frozen=True)
class Variant:
    """One row of the study; `samples` (M) is ReMix's."""

    name: str
    kind: Kind
    k: int = 0
    level: Level = "sequence"
    per_layer: bool = False
    samples: int = 0
    scaling: Scaling = "lora"
    trained_at: str = ""

    def spec(self, experts: int, width: int, blocks: int) -> RouterSpec:
        """Over so many experts in so many blocks."""
        layered = self.per_layer or self.kind in PER_LAYER
        return RouterSpec(
            self.kind, experts, width, blocks if layered else 1, self.level,
            top_k=self.k, scaling=self.scaling,
        )  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Work a seed.

    Every domain gives `windows` windows of `tokens` tokens to train on, and every text `documents`
    documents of so many tokens to score. A step is `batch` windows; a router is trained for `steps`
    of them, a ReMix whose losses are in a table for `table_steps`.
    """

    windows: int = 16
    tokens: int = 64
    steps: int = 20
    batch: int = 8
    table_steps: int = 200
    documents: int = 8
    learning_rate: float = 0.03


FULL, QUICK = Size(), Size(windows=4, tokens=32, steps=3, batch=4, table_steps=12, documents=2)

AT, CLIENTS = "coordinator", "clients"

VARIANTS = (
    Variant("uniform", "uniform"),
    Variant("domain embeddings", "domain", 1),
    Variant("domain embeddings", "domain", 2),
    Variant("domain embeddings", "domain", 4),
    Variant("Arrow", "arrow", 2, "token"),
    Variant("softmax, dense", "softmax", 0, trained_at=AT),
    Variant("softmax, dense, tokens, layers", "softmax", 0, "token", True, trained_at=AT),
    Variant("softmax, top-k", "softmax", 1, trained_at=AT),
    Variant("softmax, top-k", "softmax", 2, trained_at=AT),
    Variant("softmax, top-k", "softmax", 4, trained_at=AT),
    Variant("X-LoRA gate", "xlora", 0, "token", True, trained_at=AT),
    Variant("ReMix", "remix", 1, samples=4, trained_at=AT),
    Variant("ReMix", "remix", 2, samples=2, trained_at=AT),
    Variant("ReMix", "remix", 2, samples=4, trained_at=AT),
    Variant("ReMix", "remix", 2, samples=8, trained_at=AT),
    Variant("ReMix", "remix", 2, samples=16, trained_at=AT),
    Variant("ReMix", "remix", 4, samples=4, trained_at=AT),
    Variant("ReMix, rank-stabilised", "remix", 2, samples=4, scaling="rank_stabilised",
            trained_at=AT),
    Variant("ReMix, layers", "remix", 2, per_layer=True, samples=4, trained_at=AT),
)  # fmt: skip
