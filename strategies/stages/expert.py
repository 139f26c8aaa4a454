"""Settings of the stages that make low-rank changes of the base: `experts` and `language`."""

from dataclasses import field
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from fedmore.experts.plugins import Table
from fedmore.strategies.compression.policy import WEIGHT_TAGS
from fedmore.strategies.settings import STRICT, not_negative, part, positive
from fedmore.strategies.stages.base import KIND, TrainingStage, Trains

FOLD = 3e-8
"""What a fold may leave out, as a part of the norm: half of what float32 rounds away."""

RULES = Table("aggregation", ("mean", "clipped", "krum", "multi_krum", "trimmed_mean", "median"))
"""The rules by which a round's changes become one step, those of plugins among them."""

SEPARABLE = ("mean", "clipped", "krum", "multi_krum")
"""The built-in rules whose result can be told apart by owner, so that a withdrawal is exact."""


@dataclass(frozen=True, config=STRICT)
class FactorStage(TrainingStage):
    """A stage whose clients train low-rank factors, which the coordinator aggregates.

    An answer that comes after its round is dropped, or (`late_updates`) kept for the next round.
    There its owner's weight is multiplied by `staleness_decay` for every round that it is behind.

    The aggregate of an expert with several owners travels to them whole where `download_codec` is
    fp32 or bf16, and with any other as what moves their mirror of it
    (`fedmore.strategies.expert_stage.aggregate_mirror`).

    `aggregation` is the mean of a round's changes, or `clipped`, the mean of changes of at most
    `clip_norm` (0: the round's median norm), or for experts with many owners Flower's Krum,
    multi-Krum, trimmed mean or median, which withstand a `malicious_fraction` of them (the median:
    nearly half). The first two weigh owners by the size of their text, as they say it; of an expert
    with several none has more than `max_client_weight` of the weight.

    `rank_learning_rates` are pairs of a rank and the rate from that rank on; a lower rank takes
    `learning_rate`. A pair of 0 is for full-size changes. With `rank_scaling` "rslora" the s of a
    product is in proportion to ``1 / sqrt(rank)`` (arXiv 2312.03732), 2 at rank 8 as with
    "constant". The rate warms up `once`, in an owner's first round, or in `every_round`.

    With `round_start` "own" an owner goes on with its factors; with "aggregate" every round begins
    from the aggregate's leading directions, as many as the owner's rank
    (`fedmore.strategies.expert_stage.round_start`), so nothing has to come back to one that lost
    its state. The round's step is taken with `server_learning_rate` and Nesterov's
    `server_momentum` (`fedmore.strategies.expert_stage.step`); a fold of contributions leaves out
    at most `fold_tolerance`.

    Ranks of contributions add up. The coordinator keeps at most `max_rank` directions of a matrix
    of the aggregate, and no more than hold the share `aggregate_energy` of its squared singular
    values. The owners of an expert with several are sent its leading `broadcast_rank` directions.
    Neither cut touches the contributions, so what one round leaves out is in the next one's sum.

    With `weight_bits` of 1, 2 or 4 the clients train factors as weights of so many bits
    (arXiv 2307.16867) and send them whole, in a codec of their own; `codec` is not used then.
    """

    trains: ClassVar[Trains]
    added: ClassVar[frozenset[str]] = frozenset(
        {"aggregate_energy", "broadcast_rank", "nested_ranks"}
    )

    rank_learning_rates: Annotated[
        tuple[tuple[int, float], ...],
        Field(
            description="[[rank, rate], ...]: the rate of owners from that rank on; 0: full size"
        ),
    ] = ()
    rank_scaling: Annotated[
        Literal["constant", "rslora"],
        Field(description="s of a product: constant, or rslora (less for large ranks)"),
    ] = "constant"
    warm_up: Annotated[
        Literal["once", "every_round"],
        Field(description="of the learning rate: once, in an owner's first round, or every_round"),
    ] = "once"
    round_start: Annotated[
        Literal["own", "aggregate"],
        Field(description="own: owners go on with their factors; aggregate: with its directions"),
    ] = "own"
    server_learning_rate: Annotated[
        float, Field(description="how much of a round's mean change is taken")
    ] = 1.0
    server_momentum: Annotated[float, Field(description="Nesterov's, over rounds; 0 for none")] = (
        0.0
    )
    fold_tolerance: Annotated[
        float, Field(description="what may be left out of a contribution, as a part of its norm")
    ] = FOLD
    weight_bits: Annotated[
        Literal[0, 1, 2, 4],
        Field(description="train factors as weights of 1, 2 or 4 bits, sent whole; 0: as they are"),
    ] = 0
    nested_ranks: Annotated[
        bool,
        Field(description="train so that every prefix of an expert's directions works by itself"),
    ] = False
    max_rank: Annotated[
        int, Field(description="largest rank that the coordinator keeps of an aggregate")
    ] = 512
    aggregate_energy: Annotated[
        float,
        Field(description="share of a matrix's squared singular values that is kept; 1: of all"),
    ] = 1.0
    broadcast_rank: Annotated[
        int,
        Field(description="largest rank of what several owners are sent; 0: all that is kept"),
    ] = 0
    late_updates: Annotated[
        Literal["keep", "drop"],
        Field(description="an update after its round: keep it for the next one, or drop it"),
    ] = "keep"
    staleness_decay: Annotated[
        float, Field(description="factor of a late update's weight, for each round it is behind")
    ] = 0.5
    aggregation: Annotated[
        str,
        AfterValidator(RULES.check),
        Field(description="mean, clipped, krum, multi_krum, trimmed_mean, median (against harm)"),
    ] = "mean"
    clip_norm: Annotated[
        float,
        Field(description="clipped: largest norm of an owner's change; 0 takes the round's median"),
    ] = 0.0
    malicious_fraction: Annotated[
        float, Field(description="part of an expert's owners that krum and trimmed_mean withstand")
    ] = 0.2
    max_client_weight: Annotated[
        float,
        Field(description="of a round's weight, that one of several owners may have; 1: no limit"),
    ] = 1.0

    def __post_init__(self) -> None:
        """Reject values that no run could use."""
        super().__post_init__()
        positive(
            max_rank=self.max_rank,
            server_learning_rate=self.server_learning_rate,
            fold_tolerance=self.fold_tolerance,
        )
        not_negative(clip_norm=self.clip_norm, broadcast_rank=self.broadcast_rank)
        part(staleness_decay=self.staleness_decay, max_client_weight=self.max_client_weight)
        self._check_cuts()
        self._check_step()
        self._check_aggregation()

    def _check_cuts(self) -> None:
        """Reject cuts that would leave nothing, or that could not be seen."""
        if not 0 < self.aggregate_energy <= 1:
            raise ValueError(
                f"aggregate_energy must be above 0 and at most 1, not {self.aggregate_energy}"
            )
        if self.broadcast_rank > self.max_rank:
            raise ValueError(
                f"broadcast_rank {self.broadcast_rank} is above max_rank {self.max_rank}, and no "
                "more than that is kept; lower it, or set 0 to send all that is kept"
            )

    def _check_step(self) -> None:
        """Reject a round's step that could not be taken."""
        if not 0 <= self.server_momentum < 1:
            raise ValueError(f"server_momentum must be from 0 to below 1: {self.server_momentum}")
        if self.round_start == "aggregate" and self.weight_bits:
            raise ValueError("round_start: weights of few bits go on from their own; take own")
        if self.nested_ranks and (self.weight_bits or self.round_start != "own"):
            raise ValueError(
                "nested_ranks: directions keep their order only where owners go on with their own "
                'factors; take round_start "own" and weight_bits 0'
            )
        for rank, rate in self.rank_learning_rates:
            not_negative(rank=rank)
            positive(**{f"rank_learning_rates of rank {rank}": rate})

    def _check_aggregation(self) -> None:
        """Reject limits that the rule of aggregation does not know."""
        if not 0 <= self.malicious_fraction < 0.5:
            raise ValueError(
                "malicious_fraction must be at least 0 and below 0.5, not "
                f"{self.malicious_fraction}"
            )
        if self.max_client_weight < 1 and self.aggregation not in ("mean", "clipped"):
            raise ValueError(
                f"max_client_weight {self.max_client_weight} is for the mean of an expert's owners"
            )
        if self.clip_norm and self.aggregation != "clipped":
            raise ValueError(f"clip_norm is for aggregation clipped, not {self.aggregation}")

    def rate_of(self, rank: int) -> float:
        """The learning rate of owners of a rank; 0 is that of full-size changes."""
        low = [pair for pair in sorted(self.rank_learning_rates) if 0 < pair[0] <= rank]
        listed = low if rank else [pair for pair in self.rank_learning_rates if not pair[0]]
        return listed[-1][1] if listed else self.learning_rate

    @property
    def keeps_late(self) -> bool:
        """Whether an answer that comes after its round counts in a later one."""
        return self.late_updates == "keep"

    @property
    def update_codec(self) -> str:
        """The codec or policy that updates travel with."""
        return WEIGHT_TAGS[self.weight_bits] if self.weight_bits else self.codec

    @property
    def layers(self) -> tuple[int, int]:
        """The numbers of first and of last layers that a task names; an expert changes all."""
        return 10, 2


@dataclass(frozen=True, config=STRICT)
class ExpertStage(FactorStage):
    """Owners of a domain train its expert: a change of every FFN of the base."""

    trains: ClassVar[Trains] = "expert"

    kind: Annotated[Literal["experts"], KIND] = field(default="experts", kw_only=True)


@dataclass(frozen=True, config=STRICT)
class LanguageStage(FactorStage):
    """Owners of a language train its adapter: a change of the first and last layers."""

    trains: ClassVar[Trains] = "adapter"

    kind: Annotated[Literal["language"], KIND] = field(default="language", kw_only=True)
    first_layers: Annotated[
        int, Field(description="number of first layers that a language adapter changes")
    ] = 10
    last_layers: Annotated[
        int, Field(description="number of last layers that a language adapter changes")
    ] = 2

    def __post_init__(self) -> None:
        """Reject adapters of no layer."""
        super().__post_init__()
        not_negative(first_layers=self.first_layers, last_layers=self.last_layers)
        if not self.first_layers + self.last_layers:
            raise ValueError(
                "first_layers and last_layers are both 0: a language adapter would change no "
                "layer; set one of them above 0"
            )

    @property
    def layers(self) -> tuple[int, int]:
        """The numbers of first and of last layers that the adapter changes."""
        return self.first_layers, self.last_layers
