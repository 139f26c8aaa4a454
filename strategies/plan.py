"""What a federation is going to do: its stages, in sequence.

`federation.toml` is read into these by `fedmore.coordinator.config.schema`; a wrong value raises
`ValueError` here, which becomes a `ConfigError` with the dotted path there.
"""

from pydantic.dataclasses import dataclass

from fedmore.strategies.settings import STRICT
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage, LanguageStage
from fedmore.strategies.stages.kinds import AnyStage


@dataclass(frozen=True, config=STRICT)
class Plan:
    """The stages, in sequence."""

    stages: tuple[AnyStage, ...] = (ExpertStage(), LanguageStage(), EmbeddingStage())

    def __post_init__(self) -> None:
        """There must be something to do, and each kind of it once."""
        kinds = [stage.kind for stage in self.stages]
        if not kinds:
            raise ValueError("a plan needs at least one stage")
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"each kind of stage once, not {', '.join(kinds)}")
