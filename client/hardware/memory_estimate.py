"""How much memory training takes, and so which rank fits.

The base is frozen. It costs its weights and, for the backward pass, the numbers that its layers
keep of a batch. A trained number costs 16 bytes: itself, its gradient and Adam's two moments, all
float32.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmore.experts.spec import TargetModule, in_ffn

if TYPE_CHECKING:
    from fedmore.experts.base.blocks import Parts

TRAINED_BYTES = 16
TRAINED_BYTES_8BIT = 10
"""The same with Adam's moments in 8 bits each (`--optimizer adamw8bit`)."""

COPIES = 3
"""Copies of a full-size change in float32 that are held beside the training: where it began, what
the coordinator holds of it, and what a codec still owes."""

KEPT = 0.9
"""The share of the free memory that is planned with; the rest is left to the allocator."""


@dataclass(frozen=True)
class BaseSize:
    """A base: parameters, bytes per number, widths d and h, blocks, size of the vocabulary."""

    parameters: int
    bytes_per_number: float
    width: int
    ffn: int
    layers: int
    vocabulary: int


@dataclass(frozen=True)
class Batch:
    """One optimiser step: the number of windows and of tokens in each."""

    size: int = 4
    length: int = 128

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.size * self.length


def fixed_bytes(base: BaseSize, batch: Batch) -> int:
    """What training takes whatever the rank: weights, kept activations, logits.

    A block keeps 5.8 d + 4.1 h numbers a token for the backward pass (measured on a Llama block).
    The process grows by about half as much again, hence 10 and 6. The loss takes the logits four
    times in float32 (measured as well).
    """
    weights = base.parameters * base.bytes_per_number
    kept = base.layers * (10 * base.width + 6 * base.ffn) * max(base.bytes_per_number, 2)
    return int(weights + batch.tokens * (kept + 4 * 4 * base.vocabulary))


def rank_bytes(base: BaseSize, batch: Batch, sites: tuple[TargetModule, ...]) -> int:
    """What one more rank takes: its factors, a scaled copy of B, and A x for each token."""
    numbers = sum(site.out_features + site.in_features for site in sites)
    kept = sum(site.out_features + batch.tokens for site in sites) * max(base.bytes_per_number, 2)
    return int(numbers * TRAINED_BYTES + kept)


def full_bytes(
    base: BaseSize, sites: tuple[TargetModule, ...], trained_bytes: int = TRAINED_BYTES
) -> int:
    """What full-size matrices take: each number as it is trained, copies of it, and its cast.

    A matrix is cast to the base's dtype for the products, and kept so for the backward pass.
    """
    numbers = sum(site.out_features * site.in_features for site in sites)
    cast = 0.0 if base.bytes_per_number == 4 else max(base.bytes_per_number, 2)
    return int(numbers * (trained_bytes + 4 * COPIES + cast))


def highest_rank(base: BaseSize, batch: Batch, sites: tuple[TargetModule, ...], free: int) -> int:
    """The largest rank that fits in `free` bytes and that every matrix allows; 0 if none does."""
    left = free * KEPT - fixed_bytes(base, batch)
    return max(0, min(rank_limit(sites), int(left // rank_bytes(base, batch, sites))))


def rank_limit(sites: tuple[TargetModule, ...]) -> int:
    """The largest rank that every matrix allows."""
    return min(min(site.out_features, site.in_features) for site in sites)


def break_even(width: int, ffn: int) -> float:
    """Above the rank d h / (d + h) a full matrix is smaller than its two factors."""
    return width * ffn / (width + ffn)


def size_of(model: Any, parts: "Parts", bytes_per_number: float) -> BaseSize:
    """The size of a (meta) model of transformers.

    The FFN's width is read from its layers; of an FFN that cannot be changed it is what the
    configuration says, or 4 d.
    """
    vocabulary, width = model.get_input_embeddings().weight.shape
    config = model.config.get_text_config(decoder=True)
    said = getattr(config, "intermediate_size", None)
    found = [max(shape) for path, shape in parts.shapes.items() if in_ffn(path)]
    return BaseSize(
        parameters=int(model.num_parameters()),
        bytes_per_number=bytes_per_number,
        width=int(width),
        ffn=max(found, default=int(said) if isinstance(said, int) else 4 * int(width)),
        layers=max(parts.blocks, 1),
        vocabulary=int(vocabulary),
    )
