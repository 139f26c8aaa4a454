"""What a federation is going to do: its stages, each a frozen dataclass.

`federation.toml` is read into these by `fedmore.coordinator.config.schema`; a wrong value raises
`ValueError` here, which becomes a `ConfigError` with the dotted path there.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from fedmore.experts.errors import WireError
from fedmore.strategies.compression.policy import FINE, WEIGHT_TAGS, for_changes, is_coarse

STRICT = ConfigDict(extra="forbid", strict=True)

KINDS = ("experts", "language", "router", "routing")
"""The kinds of stages."""

TRAINED_BY = {"experts": "expert", "language": "adapter"}
"""The kinds of stages that make experts, and the kind of client that trains in each."""

FOLD = 3e-8
"""What a fold may leave out, as a part of the norm: half of what float32 rounds away."""

SEPARABLE = ("mean", "clipped", "krum", "multi_krum")
"""The rules whose result can be told apart by owner, so that a withdrawal is exact."""


def client_kind_of(kind: str) -> str:
    """The kind of client that a stage trains: `experts` trains "expert", `language` "adapter"."""
    return TRAINED_BY[kind]


T = TypeVar("T")


def parse(adapter: TypeAdapter[T], table: Mapping[str, Any]) -> T:
    """Read a table strictly; raises pydantic's `ValidationError`, whose `loc` is the path.

    Through JSON, where arrays are tuples and dataclasses are tables, yet "3" is not 3.
    """
    return adapter.validate_json(json.dumps(dict(table), default=str))


def positive(**values: float) -> None:
    """Raise `ValueError`, naming value and field, unless every value is above zero."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")


def not_negative(**values: float) -> None:
    """Raise `ValueError`, naming value and field, unless every value is 0 or more."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, not {value}")


def part(**values: float) -> None:
    """Raise `ValueError`, naming value and field, unless every value is from 0 to 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, not {value}")


def check_codecs(*texts: str) -> None:
    """Raise `ValueError` for what is neither a codec nor a policy, or not one for changes."""
    for text in texts:
        try:
            fits = for_changes(text)
        except WireError as error:
            raise ValueError(str(error)) from error
        if not fits:
            raise ValueError(f"codec {text!r} is for weights trained as bits: set weight_bits")


@dataclass(frozen=True, config=STRICT)
class Stage:
    """One part of the plan.

    `steps` optimiser steps per client and round; windows of `sequence_length` tokens, `batch_size`
    of them a step. A round waits `timeout_s` seconds for everybody it asked; with `deadline_s`
    above 0 it goes on after that many, once `quorum` (a part of those asked, and at least one) have
    answered. What comes later is refused, or (`late`) kept for the next round, where its owner's
    weight is multiplied by `staleness` for every round that it is behind.

    A stage of kind `router` collects domain embeddings; one of kind `routing` has the clients train
    the router, with these same settings (what comes late is refused there).

    The aggregate of an expert with several owners travels to them whole where `download_codec` is
    fp32 or bf16, and with any other as what moves their mirror of it (`fedmore.strategies.expert_stage.aggregate_mirror`).

    `aggregation` is the mean of a round's changes, or `clipped`, the mean of changes of at most
    `clip_norm` (0: the round's median norm), or for experts with many owners Flower's Krum,
    multi-Krum, trimmed mean or median, which withstand a `hostile` part of them (the median:
    nearly half). The first two weigh owners by the size of their text, as they say it; of an expert
    with several none has more than `max_share` of the weight. An update whose
    numbers have a root mean square above `max_rms` is refused; 0 takes four times what AdamW can
    move in the steps of a round.

    `rank_learning_rates` are pairs of a rank and the rate from that rank on; a lower rank takes
    `learning_rate`. With `rank_scaling` "rslora" the s of a product is in proportion to
    ``1 / sqrt(rank)`` (arXiv 2312.03732), 2 at rank 8 as with "constant". The rate warms up
    `once`, in an owner's first round, or in `every_round`.

    With `round_start` "own" an owner goes on with its factors; with "aggregate" every round begins
    from the aggregate's leading directions, as many as the owner's rank
    (`fedmore.strategies.expert_stage.round_start`), so nothing has to come back to one that lost its state. The
    round's step is taken with `server_learning_rate` and Nesterov's `server_momentum`
    (`fedmore.strategies.expert_stage.step`); a fold of contributions leaves out at most `fold_tolerance`.

    With `weight_bits` of 1, 2 or 4 the clients train factors as weights of so many bits
    (arXiv 2307.16867) and send them whole, in a codec of their own; `codec` is not used then.
    """

    kind: Literal["experts", "language", "router", "routing"]
    rounds: int = 3
    steps: int = 10
    batch_size: int = 4
    sequence_length: int = 128
    learning_rate: float = 1e-3
    codec: str = "sign1"
    rank_learning_rates: tuple[tuple[int, float], ...] = ()
    rank_scaling: Literal["constant", "rslora"] = "constant"
    warm_up: Literal["once", "every_round"] = "once"
    round_start: Literal["own", "aggregate"] = "own"
    server_learning_rate: float = 1.0
    server_momentum: float = 0.0
    fold_tolerance: float = FOLD
    weight_bits: Literal[0, 1, 2, 4] = 0
    download_codec: str = "bf16"
    first_layers: int = 10
    last_layers: int = 2
    threads: int = 0
    max_rank: int = 512
    timeout_s: float = 3600.0
    deadline_s: float = 0.0
    quorum: float = 0.0
    late: Literal["keep", "refuse"] = "keep"
    staleness: float = 0.5
    aggregation: Literal["mean", "clipped", "krum", "multi_krum", "trimmed_mean", "median"] = "mean"
    clip_norm: float = 0.0
    hostile: float = 0.2
    max_share: float = 1.0
    max_rms: float = 0.0

    def __post_init__(self) -> None:
        """Reject values that no run could use."""
        positive(
            rounds=self.rounds,
            steps=self.steps,
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            learning_rate=self.learning_rate,
            max_rank=self.max_rank,
            timeout_s=self.timeout_s,
            server_learning_rate=self.server_learning_rate,
            fold_tolerance=self.fold_tolerance,
        )
        not_negative(
            first_layers=self.first_layers,
            last_layers=self.last_layers,
            threads=self.threads,
            deadline_s=self.deadline_s,
            max_rms=self.max_rms,
            clip_norm=self.clip_norm,
        )
        part(quorum=self.quorum, staleness=self.staleness, max_share=self.max_share)
        self._check_step()
        check_codecs(self.codec, self.download_codec)
        if self.kind == "routing" and is_coarse(self.download_codec):
            raise ValueError(
                f"download_codec: a stage of kind routing sends whole experts, for which "
                f"{self.download_codec!r} is too coarse; take {' or '.join(FINE)}"
            )
        if not 0 <= self.hostile < 0.5:
            raise ValueError(f"hostile must be at least 0 and below 0.5, not {self.hostile}")
        if self.kind == "routing" and self.aggregation != "mean":
            raise ValueError(f"aggregation: a router is the mean, not {self.aggregation}")
        if self.max_share < 1 and (
            self.kind == "routing" or self.aggregation not in ("mean", "clipped")
        ):
            raise ValueError(f"max_share {self.max_share} is for the mean of an expert's owners")
        if self.weight_bits and self.kind not in TRAINED_BY:
            raise ValueError(f"weight_bits: a stage of kind {self.kind} trains no factors")
        if self.deadline_s > self.timeout_s:
            raise ValueError(f"deadline_s {self.deadline_s} is after timeout_s {self.timeout_s}")

    def _check_step(self) -> None:
        """Reject how a round's step could not be taken, and adapters of no layer."""
        if not 0 <= self.server_momentum < 1:
            raise ValueError(f"server_momentum must be from 0 to below 1: {self.server_momentum}")
        if self.round_start == "aggregate" and self.weight_bits:
            raise ValueError("round_start: weights of few bits go on from their own; take own")
        for rank, rate in self.rank_learning_rates:
            positive(rank=rank, **{f"rank_learning_rates of rank {rank}": rate})
        if self.kind == "language" and not self.first_layers + self.last_layers:
            raise ValueError(
                "first_layers and last_layers are both 0: a language adapter would change no "
                "layer; set one of them above 0"
            )
        if self.clip_norm and self.aggregation != "clipped":
            raise ValueError(f"clip_norm is for aggregation clipped, not {self.aggregation}")

    def rate_of(self, rank: int) -> float:
        """The learning rate of owners of a rank."""
        listed = [pair for pair in sorted(self.rank_learning_rates) if pair[0] <= rank]
        return listed[-1][1] if listed else self.learning_rate

    @property
    def update_codec(self) -> str:
        """The codec or policy that updates travel with."""
        return WEIGHT_TAGS[self.weight_bits] if self.weight_bits else self.codec


@dataclass(frozen=True, config=STRICT)
class Plan:
    """The stages, in sequence."""

    stages: tuple[Stage, ...] = (Stage("experts"), Stage("language"), Stage("router", rounds=1))

    def __post_init__(self) -> None:
        """There must be something to do, and each kind of it once."""
        kinds = [stage.kind for stage in self.stages]
        if not kinds:
            raise ValueError("a plan needs at least one stage")
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"each kind of stage once, not {', '.join(kinds)}")
