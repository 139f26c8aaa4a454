"""Where a stage stands when its strategy begins, or goes on."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from fedmore.strategies.state import ExpertState


def nobody() -> AbstractSet[str]:
    """No client is withdrawn."""
    return frozenset()


@dataclass(frozen=True)
class Progress:
    """Where a stage stands: `done` rounds, what they left, and who is still to answer.

    `late` are the rows of `fedmore.strategies.asked` in the last round's metrics, and `sizes` what
    each client said of its text when it was first asked.
    """

    done: int = 0
    states: Mapping[str, ExpertState] = field(default_factory=dict)
    late: Sequence[Mapping[str, Any]] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
