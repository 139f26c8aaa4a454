"""Settings of the stage in which clients train the router of the mixture."""

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic.dataclasses import dataclass

from fedmore.strategies.compression.policy import FINE, is_coarse
from fedmore.strategies.settings import STRICT
from fedmore.strategies.stages.base import KIND, TrainingStage

if TYPE_CHECKING:
    from fedmore.strategies.terms import Terms


@dataclass(frozen=True, config=STRICT)
class RouterStage(TrainingStage):
    """All clients train the router over frozen experts; the result is the mean of their changes.

    A change is of the router that it was made from, so one that comes late is refused.
    """

    kind: Annotated[Literal["routing"], KIND] = field(default="routing", kw_only=True)

    def __post_init__(self) -> None:
        """Reject a codec that would spoil the experts that this stage sends."""
        super().__post_init__()
        if is_coarse(self.download_codec):
            raise ValueError(
                f"download_codec: a stage of kind routing sends whole experts, for which "
                f"{self.download_codec!r} is too coarse; take {' or '.join(FINE)}"
            )

    def summary(self, terms: "Terms") -> str:
        """That of a training, and which router is trained."""
        return f"{super().summary(terms)}, a router of kind {terms.router.kind}"
