"""What an owner lets a federation do with its text, whatever plan the coordinator offers.

`client join --policy owner.toml` reads it, strictly; every field has a default, and
docs/security.md says where the defaults come from. Two kinds of fields: bounds on what a task may
ask, and floors on the text behind every number that leaves.

The floor of tokens under an update grows with its rank and its precision. A factor A of rank r
moves inside the span of the hidden states of the tokens that it was trained on. If these are fewer
than r, each of them can be told by testing whether a candidate lies in that span (DAGER,
arXiv 2405.15586, section 4). With many more tokens than r the span is full and the test says
nothing; and every bit of a number makes the test sharper. Hence
``tokens >= tokens_per_direction * rank * (1 + bits / 8)``.
"""

import math
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmore.experts.errors import ConfigError
from fedmore.experts.plugins import Plugin, installed
from fedmore.strategies.compression.policy import NAMES, TAGS
from fedmore.strategies.settings import STRICT, faults, not_negative, parse, positive
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.tasks.base import Work

CODECS = ("sign1", "nf4", "int8", "bits1", "bits2", "bits4")
"""Codecs that an update may leave in by default: those of fewer than 16 bits a number."""

BITS = {"fp32": 32.0, "bf16": 16.0, "int8": 8.0, "nf4": 4.0, "bits4": 4.0, "bits2": 2.0}
"""Bits of a number in each codec; of other built-in ones 1, of a plugin's 32."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class OwnerPolicy:
    """Bounds and floors of one owner.

    Args:
        consent: with "plan" a task must be one of the plan that the owner accepted; with "bounds"
            the owner accepts every plan, and every later change of it, inside the bounds below.
        codecs: codecs that an update may leave in.
        plugins: plugins that a plan or task may use, such as `codec.ternary`; each is installed on
            this machine. An update in a plugin's codec needs its name in `codecs` too.
        max_rounds, max_steps, max_batch_size, max_sequence_length, max_learning_rate, max_threads:
            the largest setting of a stage.
        max_samples: selections that ReMix draws for a window.
        rounds_per_day: tasks of training that are begun within 24 hours; 0 sets no limit.
        min_steps: optimiser steps behind an update.
        min_tokens: tokens behind an update, and of all of the owner's text.
        tokens_per_direction: tokens behind an update for each of its rank, see above.
        min_passages: passages of text that there must be; a document is one, a long one several.
        min_embedding_tokens: tokens behind the domain embedding.
        embedding_noise: standard deviation of the noise on the sum of all passages' mean
            embeddings, as a multiple of the norm that each of them is clipped to; 0 adds none.
        embedding_clip: that norm, as a multiple of the root mean square norm of the base's
            embedding rows.
        max_spectral_ratio: largest spectral norm of a change that the coordinator sends, as a
            multiple of that of the base's own matrix.
        max_worse: by how many nats a token such a change may raise the loss of the owner's own
            held-out text above the bare base's.
        max_router_reach: learning rates that a step may have moved a number of a router that the
            coordinator sends. AdamW moves one by 3.2 at most (arXiv 1412.6980, section 2.1), and
            a coarse codec rounds up; 0 checks nothing.

    """

    consent: Literal["plan", "bounds"] = "plan"
    codecs: tuple[str, ...] = CODECS
    plugins: tuple[str, ...] = ()
    max_rounds: int = 1000
    max_steps: int = 10_000
    max_batch_size: int = 1024
    max_sequence_length: int = 16_384
    max_learning_rate: float = 0.1
    max_threads: int = 256
    max_samples: int = 64
    rounds_per_day: int = 0
    min_steps: int = 4
    min_tokens: int = 1024
    tokens_per_direction: int = 16
    min_passages: int = 16
    min_embedding_tokens: int = 2048
    embedding_noise: float = 1.0
    embedding_clip: float = 0.5
    max_spectral_ratio: float = 2.0
    max_worse: float = 0.2
    max_router_reach: float = 4.0

    def __post_init__(self) -> None:
        """Reject what bounds nothing, and codecs that do not exist."""
        unknown = sorted(tag for tag in self.codecs if tag not in NAMES)
        if unknown or not self.codecs:
            raise ValueError(
                f"codecs: {unknown[0] if unknown else 'none'} is not among {NAMES.listed()}"
            )
        known = [plugin.key for plugin in installed()] if self.plugins else []
        for key in self.plugins:
            if key not in known:
                raise ValueError(
                    f"plugins: {key!r} is not installed here; there are: {', '.join(known) or '-'}"
                )
        positive(
            max_rounds=self.max_rounds,
            max_steps=self.max_steps,
            max_batch_size=self.max_batch_size,
            max_sequence_length=self.max_sequence_length,
            max_learning_rate=self.max_learning_rate,
            min_steps=self.min_steps,
            min_tokens=self.min_tokens,
            min_passages=self.min_passages,
            min_embedding_tokens=self.min_embedding_tokens,
            embedding_clip=self.embedding_clip,
            max_spectral_ratio=self.max_spectral_ratio,
        )
        not_negative(
            rounds_per_day=self.rounds_per_day,
            tokens_per_direction=self.tokens_per_direction,
            embedding_noise=self.embedding_noise,
            max_worse=self.max_worse,
            max_router_reach=self.max_router_reach,
        )

    def tokens_needed(self, rank: int, tags: Sequence[str]) -> int:
        """Tokens that must be behind an update of `rank` in codecs of these `tags`."""
        bits = max((_bits(tag) for tag in tags), default=1.0)
        return max(self.min_tokens, math.ceil(self.tokens_per_direction * rank * (1 + bits / 8)))

    def strangers(self, plugins: Iterable[Plugin]) -> list[str]:
        """A line for each of `plugins` that the owner does not let a federation use."""
        return [
            f"it uses the plugin {plugin}, which the owner has not allowed (plugins of --policy)"
            for plugin in plugins
            if plugin.key not in self.plugins
        ]

    def excess(self, kind: str, settings: Stage | Work) -> list[str]:
        """In what the settings of a stage or task are out of bounds; nothing if they are not.

        A stage that trains nothing has only some of these settings.
        """
        limits = {
            "rounds": self.max_rounds,
            "steps": self.max_steps,
            "batch_size": self.max_batch_size,
            "sequence_length": self.max_sequence_length,
            "learning_rate": self.max_learning_rate,
            "threads": self.max_threads,
        }
        return [
            f"{kind}: {name} is {getattr(settings, name)}, the owner's bound is {most}"
            for name, most in limits.items()
            if hasattr(settings, name) and not getattr(settings, name) <= most
        ]


def _bits(tag: str) -> float:
    """Bits that a number in this codec may tell of; what a plugin packs is not known."""
    return BITS.get(tag, 1.0) if tag in TAGS else 32.0


_POLICY = TypeAdapter(OwnerPolicy)


def read_policy(path: Path) -> OwnerPolicy:
    """The policy in a TOML file; raises `ConfigError` with the name of a wrong key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return parse(_POLICY, table)
    except ValidationError as error:
        raise ConfigError(f"{path}: {faults(error)}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def parse_policy(text: str) -> OwnerPolicy:
    """The policy of a `node_config`, which is JSON; an empty text is the default."""
    try:
        return _POLICY.validate_json(text) if text else OwnerPolicy()
    except ValidationError as error:
        raise ConfigError(f"policy: {faults(error)}") from error


def dump_policy(policy: OwnerPolicy) -> str:
    """The inverse of `parse_policy`."""
    return _POLICY.dump_json(policy).decode()
