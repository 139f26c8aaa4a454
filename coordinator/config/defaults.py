"""Editions of the defaults, so that a file means the same in every version that reads it.

A file leaves out the keys that have their default, and says as `defaults` which edition that was.
A version that changes a default raises `EDITION` and writes the former one into `CHANGED`. A file
that says nothing has the first edition.
"""

from collections.abc import Mapping
from typing import Any

from fedmore.experts.former_names import STAGE, today
from fedmore.strategies.plan import Plan

KEY = "defaults"
EDITION = 1
CHANGED: Mapping[int, Mapping[str, Any]] = {}
"""What each edition changed: `section.key` or `stages.KIND.key`, and the default before it."""


def with_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table without `defaults`, and with what has another default today than in its edition.

    Raises `ValueError` for an edition that this version does not know.
    """
    found = {name: value for name, value in table.items() if name != KEY}
    edition = table.get(KEY, 1)
    if not isinstance(edition, int) or isinstance(edition, bool) or not 1 <= edition <= EDITION:
        raise ValueError(
            f"{KEY}: {edition!r} is not one of the editions 1 to {EDITION} that this version knows"
        )
    for path, value in _former(edition).items():
        section, key = path.rsplit(".", 1)
        if section.startswith("stages."):
            found["stages"] = _stages(found, section.removeprefix("stages."), key, value)
        elif isinstance(found.setdefault(section, {}), Mapping):
            found[section] = {key: value, **found[section]}
    return found


def _former(edition: int) -> dict[str, Any]:
    """The defaults of an edition that are others today."""
    found: dict[str, Any] = {}
    for later in range(EDITION, edition, -1):
        found |= CHANGED[later]
    return found


def _stages(table: Mapping[str, Any], kind: str, key: str, value: Any) -> Any:
    """The stages, those of a kind with a value for a key that they leave out."""
    stages = table.get("stages", [{"kind": stage.kind} for stage in Plan().stages])
    if not isinstance(stages, list):
        return stages

    def lacks(stage: Any) -> bool:
        return (
            isinstance(stage, Mapping)
            and stage.get("kind") == kind
            and key not in today(stage, STAGE)
        )

    return [{**stage, key: value} if lacks(stage) else stage for stage in stages]
