"""Which tasks this client has taken on: one for each round of a stage, for ever.

The answers to two tasks that differ in one token show that token. So the first task of a round is
written down before its work begins, and any other task of that round is refused. That holds after a
kill, a restart, another node id, or a coordinator that was set back.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmore.experts.errors import DataError, EgressError
from fedmore.protos.system.files import write_private

FILE = "answered.json"
DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Answered:
    """The tasks by stage and round, in `folder`; `clock` gives seconds since the epoch."""

    folder: Path
    clock: Callable[[], float] = field(default=time.time, repr=False)

    def check(self, group: str, key: str) -> None:
        """Raise `EgressError` if another task than `key` was taken on for the round `group`."""
        known = self._read().get(group)
        if known is not None and known["task"] != key:
            raise EgressError(
                f"asked for round {group} a second time and in another way; a round is answered "
                "once, since the difference of two answers would show single tokens"
            )

    def claim(self, group: str, key: str, per_day: int = 0) -> None:
        """Take on a task; raises `EgressError` as `check` does, or beyond `per_day` tasks.

        A task that was taken on already may be done again: it gives the same bytes.
        """
        self.check(group, key)
        known = self._read()
        if group in known:
            self._check_latest(group, list(known))
            return
        now = self.clock()
        lately = sum(now - DAY_S < entry["time"] <= now for entry in known.values())
        if per_day and lately >= per_day:
            raise EgressError(
                f"{lately} rounds were begun within 24 hours, the owner allows {per_day} "
                "(rounds_per_day of the policy)"
            )
        table = known | {group: {"task": key, "time": now}}
        write_private(self.folder / FILE, json.dumps(table, indent=1) + "\n")

    def _check_latest(self, group: str, groups: list[str]) -> None:
        """What was answered before a later round began is not worked out again."""
        stage = group.partition("/")[0]
        same = [each for each in groups if each.partition("/")[0] == stage]
        if group != same[-1]:
            raise EgressError(f"asked for round {group} again after {same[-1]} was begun")

    def _read(self) -> dict[str, dict[str, Any]]:
        path = self.folder / FILE
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            return {g: {"task": str(e["task"]), "time": float(e["time"])} for g, e in table.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{path}: damaged ({error}); without it this client cannot know which rounds it "
                "has answered. Restore it, or join anew under another name"
            ) from error
