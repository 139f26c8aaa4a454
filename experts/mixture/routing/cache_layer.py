"""The router's memory as one more layer of transformers' key-value cache.

A `Cache` hands every operation on to each of its layers, so the memory follows the cache through
all of them. The layer comes after those of the model, which never look at it.
"""

from typing import Any

from transformers.cache_utils import Cache, DummyLayer

from fedmore.experts.errors import ConfigError
from fedmore.experts.routers.past import Past


class RouterLayer(DummyLayer):
    """Holds a `Past`, and does to it what is done to the keys and values.

    It says nothing of its own about compiling: transformers makes other masks for a cache with a
    layer that cannot be compiled, and a static cache would be read beyond its end.
    """

    def __init__(self, past: Past) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.past = past

    def reset(self) -> None:
        """Forget all texts of the cache."""
        self.past.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Take tokens off the end; their number is 0 or negative, as transformers gives it."""
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
    """What the router of the mixture `owner` remembers of the texts in `cache`, if there are any.

    Raises `ConfigError` if the cache was filled by anything but this mixture.
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
    """Have `cache` hold `past` from now on."""
    layer = _layer(cache)
    if layer is None:
        cache.layers.append(RouterLayer(past))
    else:
        layer.past = past


def cache_in(output: Any) -> Any:
    """The cache that a model's output holds, whether it is a tuple or not; None without one."""
    values = output if isinstance(output, tuple) else output.values()
    return next((value for value in values if isinstance(value, Cache)), None)


def _layer(cache: Any) -> RouterLayer | None:
    return next((layer for layer in cache.layers if isinstance(layer, RouterLayer)), None)
