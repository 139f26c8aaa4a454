"""The router's memory as an additional layer of transformers' key-value cache.

A `Cache` passes every operation on to each of its layers, so the memory stays in step with the
keys and values. The layer comes after those of the model, which never read it.
"""

from typing import Any

from transformers.cache_utils import Cache, DummyLayer

from fedmore.experts.errors import ConfigError
from fedmore.experts.routers.past import Past


class RouterLayer(DummyLayer):
    """Holds a `Past` and applies to it every operation on the keys and values.

    It must not declare whether it can be compiled. For a cache with a layer that cannot,
    transformers makes other masks, and a static cache would be read beyond its end.
    """

    def __init__(self, past: Past) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.past = past

    def reset(self) -> None:
        """Forget all texts."""
        self.past.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end; transformers passes their number as 0 or negative."""
        self.past.cut(self.past.seen - abs(tokens_to_remove))

    def reorder_cache(self, beam_idx: Any) -> None:
        """Reorder the sequences, as beam search does."""
        self.past.select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence."""
        self.past.repeat(repeats)

    def batch_select_indices(self, indices: Any) -> None:
        """Keep some of the sequences."""
        self.past.select(indices)


def past_of(cache: Any, owner: str) -> Past:
    """Return what the router of the mixture `owner` remembers of the texts in `cache`.

    An empty cache gives an empty `Past`. Raises `ConfigError` if another model filled the cache.
    """
    if cache is None:
        return Past(owner)
    if not isinstance(cache, Cache):
        raise ConfigError(
            f"past_key_values is a {type(cache).__name__}: give a mixture transformers' Cache"
        )
    held, layer = int(cache.get_seq_length()), _layer(cache)
    if layer is None and not held:
        return Past(owner, whole=cache.is_croppable)
    if layer is None or layer.past.owner != owner:
        raise ConfigError(
            f"the key-value cache holds {held} tokens that went through another model: a mixture "
            "goes on only with what it has read itself; begin with an empty cache"
        )
    if layer.past.seen != held:
        raise ConfigError(
            f"the key-value cache holds {held} tokens, and the router has seen {layer.past.seen} "
            "of them: it was changed past transformers' Cache methods, or a call failed half-way; "
            "begin with an empty cache"
        )
    return layer.past


def keep(cache: Any, past: Past) -> None:
    """Store `past` in `cache`."""
    layer = _layer(cache)
    if layer is None:
        cache.layers.append(RouterLayer(past))
    else:
        layer.past = past


def cache_in(output: Any) -> Any:
    """The cache in a model's output, which may be a tuple; None if it has no cache."""
    values = output if isinstance(output, tuple) else output.values()
    return next((value for value in values if isinstance(value, Cache)), None)


def _layer(cache: Any) -> RouterLayer | None:
    return next((layer for layer in cache.layers if isinstance(layer, RouterLayer)), None)
