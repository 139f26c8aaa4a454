"""Generates text from a mixture, token by token, with the weights of all arms at every token.

A token's weights are those of the position before it, which predicts it; this holds for tokens of
the prompt too. The first token has no weights.

Shape suffixes: L decisions (layers), T tokens, A arms (the public expert, then the experts).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.model import Mixture
from fedmore.experts.text.tokenization import pad_token

SEEDS = 2**63
"""Seeds are at least 0 and below this."""

COLDEST = 1e-3
"""The lowest temperature; division by a lower one could overflow the logits."""


@dataclass(frozen=True)
class Settings:
    """How text is generated: `temperature` 0 takes the likeliest token, above 0 it draws by `seed`.

    A draw is among the likeliest tokens whose probabilities add up to `top_p`. There are no beams,
    so every token can be reported at once.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    use_cache: bool = True

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a value out of range."""
        if self.max_tokens < 1:
            raise ConfigError(f"max-tokens must be 1 or more, not {self.max_tokens}")
        if self.temperature != 0 and not COLDEST <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be 0 or from {COLDEST} up, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top-p must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.seed < SEEDS:
            raise ConfigError(f"seed must be from 0 to {SEEDS - 1}, not {self.seed}")

    def options(self) -> dict[str, Any]:
        """Arguments for transformers' `generate`; the base's own configuration sets the rest."""
        chosen = {"max_new_tokens": self.max_tokens, "num_beams": 1, "use_cache": self.use_cache}
        if self.temperature == 0:
            return {**chosen, "do_sample": False}
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return {**chosen, "do_sample": True, **drawn}


@dataclass(frozen=True)
class Generated:
    """A text whose first `prompt` tokens were given; `weights_LTA` covers all tokens but the first.

    `ended` says that the model made an end token before it reached the limit.
    """

    ids: tuple[int, ...]
    prompt: int
    weights_LTA: Tensor
    ended: bool

    @property
    def mean(self) -> Tensor:
        """Mean weights over the decisions, [T - 1, A]."""
        return self.weights_LTA.mean(0)

    @property
    def used(self) -> Tensor:
        """Mean weights over the decisions and the generated tokens, [A]."""
        return self.mean[self.prompt - 1 :].mean(0)


_DRAWING = threading.Lock()

OnToken = Callable[[int, Tensor], None]
"""A callback that gets every new token and its weights [L, A]."""


def generate(
    mixture: Mixture,
    tokenizer: Any,
    ids: Sequence[int],
    settings: Settings,
    on_token: OnToken | None = None,
) -> Generated:
    """Continue the tokens `ids`; an end token is part of the result.

    Raises `ConfigError` if `ids` is empty, or if the base has too few positions.
    """
    check_room(mixture, len(ids), settings.max_tokens)
    gates, model = mixture.gates, mixture.model
    stream = Stream(1 if mixture.router.shared else len(gates.blocks), on_token)
    drawing = _seeded(settings.seed, model.device) if settings.temperature else nullcontext()
    with gates.asking(watch=stream.watched), drawing, torch.inference_mode():
        given = torch.tensor([list(ids)], device=model.device)
        model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            pad_token_id=pad_token(tokenizer),
            streamer=stream,
            **settings.options(),
        )
    weights_LTA = torch.cat(stream.weights, dim=1)
    return Generated((*ids, *stream.ids), len(ids), weights_LTA, stream.ids[-1] in ends(model))


class Stream:
    """Receives tokens from transformers' `generate` and pairs them with the watched weights."""

    def __init__(self, decisions: int, on_token: OnToken | None) -> None:
        self.watched: list[Tensor] = []
        self.ids: list[int] = []
        self.weights: list[Tensor] = []
        self._decisions, self._on_token = decisions, on_token
        self._begun = False

    def put(self, tokens: Tensor) -> None:
        """Take the prompt at the first call, then one token per call."""
        if not self._begun:
            self._begun = True
            return
        # Take one forward pass only: the next one may have run before stopping was decided.
        passed, self.watched[: self._decisions] = self.watched[: self._decisions], []
        weights_LTA = torch.stack([weights[0].float().cpu() for weights in passed])
        if self.weights:  # without a cache, every pass covers all tokens
            weights_LTA = weights_LTA[:, -1:]
        self.ids.append(int(tokens[0]))
        self.weights.append(weights_LTA)
        if self._on_token is not None:
            self._on_token(self.ids[-1], weights_LTA[:, -1])

    def end(self) -> None:
        """Do nothing; `generate` calls this at the end."""


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers by `seed` inside, and restore the generator's state afterwards.

    PyTorch has one generator for all threads, so a lock lets one text be drawn at a time.
    """
    with _DRAWING, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def positions(mixture: Mixture) -> int | None:
    """Number of positions of the base; None if it has no limit."""
    limit: int | None = getattr(mixture.model.config, "max_position_embeddings", None)
    return limit


def check_room(mixture: Mixture, given: int, wanted: int) -> None:
    """Raise `ConfigError` unless a token is given and the base has room for `wanted` more."""
    if given < 1:
        raise ConfigError("no text to continue: give at least one token")
    limit = positions(mixture)
    if limit is not None and given + wanted > limit:
        raise ConfigError(
            f"{given} tokens and max-tokens {wanted} are more than the {limit} positions of the "
            "base; give less text, or ask for fewer tokens"
        )


def ends(model: Any) -> set[int]:
    """Ids of the tokens that end a text."""
    found = model.generation_config.eos_token_id
    return set(found) if isinstance(found, list) else {found}
