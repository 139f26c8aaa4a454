"""A stage of a plugin that its owner has not allowed: its settings stay as they came."""

import json
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from fedmore.strategies.settings import STRICT
from fedmore.strategies.stages.base import Stage

if TYPE_CHECKING:
    from fedmore.strategies.terms import Terms

SHOWN = 400
"""Characters of the settings that an owner is shown."""


@dataclass(frozen=True, config=STRICT)
class UnreadStage(Stage):
    """What a plan says of such a stage. It can be shown and kept, and no task of it is done."""

    settings: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def summary(self, terms: "Terms") -> str:
        """The settings in the words of the coordinator, since only the plugin can explain them."""
        said = json.dumps(dict(self.settings), sort_keys=True)[:SHOWN]
        return f"a stage that only its plugin can explain, once you have allowed it: {said}"

    def table(self) -> dict[str, Any]:
        """The settings as they came."""
        return dict(self.settings)
