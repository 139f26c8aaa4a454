"""What every stage of a plan has, and what every stage has that trains on the owners' text.

A kind of stage is a frozen dataclass below `Stage` with the settings that it uses and no others.
`fedmore.strategies.stages.kinds` lists the kinds. A wrong value raises `ValueError` here; the
reader of `federation.toml` makes it a `ConfigError` with the dotted path.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from fedmore.strategies.settings import STRICT, check_codecs, not_negative, part, positive

if TYPE_CHECKING:
    from fedmore.strategies.terms import Terms

Trains = Literal["expert", "adapter"]
"""What a client trains: a domain expert, or a language adapter."""


KIND = Field(description="what the stage is for; it decides which keys the stage has")


@dataclass(frozen=True, config=STRICT)
class Stage(ABC):
    """One part of a plan: what all kinds have in common.

    A round waits `timeout_s` seconds for everybody it asked. With `deadline_s` above 0 it goes on
    after that time, once `quorum_fraction` (a part of those asked, and at least one) have answered.
    """

    trains: ClassVar[Trains | None] = None
    """The clients that have a part in this kind of stage; None for all."""

    added: ClassVar[frozenset[str]] = frozenset()
    """Settings that earlier versions did not have; a table names them if they are not default."""

    kind: Annotated[str, KIND] = field(default="", kw_only=True)
    timeout_s: Annotated[
        float, Field(description="seconds after which a round ends without those still to answer")
    ] = field(default=3600.0, kw_only=True)
    deadline_s: Annotated[
        float, Field(description="seconds after which a quorum is enough; 0 waits for everybody")
    ] = field(default=0.0, kw_only=True)
    quorum_fraction: Annotated[
        float, Field(description="part of those asked without whom a round fails; at least one")
    ] = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        """Reject values that no run could use."""
        positive(timeout_s=self.timeout_s)
        not_negative(deadline_s=self.deadline_s)
        part(quorum_fraction=self.quorum_fraction)
        if self.deadline_s > self.timeout_s:
            raise ValueError(f"deadline_s {self.deadline_s} is after timeout_s {self.timeout_s}")

    @property
    def rounds(self) -> int:
        """How many rounds the stage has; one, unless its kind has a setting of this name."""
        return 1

    @property
    def keeps_late(self) -> bool:
        """Whether an answer that comes after its round counts in a later one."""
        return False

    def table(self) -> dict[str, Any]:
        """The settings as a table.

        The rounds are said of every stage: a client of an earlier version takes three by default.
        A setting that came later is named only if it differs from its default, so that earlier
        versions can read the plans that they could carry out.
        """
        defaults = {each.name: each.default for each in fields(self) if each.name in self.added}
        every = {"rounds": self.rounds, **asdict(self)}
        return {k: v for k, v in every.items() if k not in defaults or v != defaults[k]}

    @abstractmethod
    def summary(self, terms: "Terms") -> str:
        """What the stage asks of an owner's text, in one line."""


@dataclass(frozen=True, config=STRICT)
class TrainingStage(Stage):
    """A stage whose clients train on their text and send an update each round.

    An update whose numbers have a root mean square above `max_rms` is refused; 0 takes four times
    what AdamW can move in the steps of a round.
    """

    rounds: Annotated[
        int, Field(description="how often the clients train and the results are aggregated")
    ] = 3
    steps: Annotated[int, Field(description="optimiser steps per client and round")] = 10
    batch_size: Annotated[int, Field(description="windows per step")] = 4
    sequence_length: Annotated[int, Field(description="tokens per window")] = 128
    learning_rate: Annotated[float, Field(description="of AdamW")] = 1e-3
    codec: Annotated[
        str,
        Field(
            description="of updates: fp32, bf16, int8, nf4, sign1 (1 bit per number), auto, or "
            "auto,factor_b=nf4"
        ),
    ] = "sign1"
    download_codec: Annotated[
        str, Field(description="coordinator to client; other than fp32 and bf16 it moves a mirror")
    ] = "bf16"
    threads: Annotated[
        int, Field(description="CPU threads per client; 0 leaves it to the client")
    ] = 0
    max_rms: Annotated[
        float,
        Field(description="refuse an update with larger numbers; 0 for a bound by the steps"),
    ] = 0.0

    def __post_init__(self) -> None:
        """Reject values that no training could use."""
        super().__post_init__()
        positive(
            rounds=self.rounds,
            steps=self.steps,
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            learning_rate=self.learning_rate,
        )
        not_negative(threads=self.threads, max_rms=self.max_rms)
        check_codecs(self.codec, self.download_codec)

    @property
    def update_codec(self) -> str:
        """The codec or policy that updates travel with."""
        return self.codec

    def summary(self, terms: "Terms") -> str:
        """Rounds, steps and tokens of the training."""
        tokens = self.steps * self.batch_size * self.sequence_length
        return (
            f"{self.rounds} rounds of {self.steps} steps x {self.batch_size} windows of "
            f"{self.sequence_length} tokens ({tokens:,} tokens a round), learning rate "
            f"{self.learning_rate:g}, sent as {self.update_codec}"
        )
