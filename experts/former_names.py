"""Settings that earlier versions called otherwise: the one table of their names.

`today` reads a table of an earlier version: a person's `federation.toml`, a plan that an owner
agreed to, a task, a router's file. `former` writes the names of the earlier versions. It is for
what programs exchange and keep for each other, so that a client and a coordinator of different
versions understand each other. Inside the code every setting has today's name alone.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Renamed:
    """The name that a setting has today, and today's words for `values` that were renamed too."""

    name: str
    values: Mapping[str, str] = field(default_factory=dict)


STAGE: Mapping[str, Renamed] = {
    "quorum": Renamed("quorum_fraction"),
    "late": Renamed("late_updates", {"refuse": "drop"}),
    "staleness": Renamed("staleness_decay"),
    "hostile": Renamed("malicious_fraction"),
    "max_share": Renamed("max_client_weight"),
}
"""Of a stage: in `federation.toml` and in the plan that an owner agrees to."""

ROUTER: Mapping[str, Renamed] = {
    "level": Renamed("granularity"),
    "prefix": Renamed("prefix_tokens"),
    "start": Renamed("init"),
    "samples": Renamed("num_selections"),
    "entropy": Renamed("entropy_weight"),
    "balance": Renamed("balance_weight"),
    "z_loss": Renamed("z_loss_weight"),
    "experts_rate": Renamed("experts_learning_rate"),
}
"""Of the router: in `federation.toml`, in an agreed plan, in tasks, and in a router's file."""

SERVER: Mapping[str, Renamed] = {
    "dead_after_s": Renamed("heartbeat_timeout_s"),
    "rejoin_s": Renamed("rejoin_timeout_s"),
}
"""Of the section `[server]` of `federation.toml`."""


def today(
    table: Mapping[str, Any], renamed: Mapping[str, Renamed], own: Collection[str] = ()
) -> dict[str, Any]:
    """`table` with today's names; raises `ValueError` if it has both names of a setting.

    Args:
        table: settings by name, in today's names, those of earlier versions, or some of each.
        renamed: the part of the table of names that is about these settings.
        own: names that mean something of their own here, and are left as they are.

    """
    found: dict[str, Any] = {}
    for name, value in table.items():
        new = None if name in own else renamed.get(name)
        if new and new.name in table:
            raise ValueError(f"{name} and {new.name} are one setting; take {name} out")
        found[new.name if new else name] = _replaced(value, new.values) if new else value
    return found


def former(table: Mapping[str, Any], renamed: Mapping[str, Renamed]) -> dict[str, Any]:
    """The inverse of `today`: `table` with the names of earlier versions."""
    old = {new.name: (name, _turned(new.values)) for name, new in renamed.items()}
    found: dict[str, Any] = {}
    for name, value in table.items():
        former_name, values = old.get(name, (name, {}))
        found[former_name] = _replaced(value, values)
    return found


def _replaced(value: Any, words: Mapping[str, str]) -> Any:
    return words.get(value, value) if isinstance(value, str) else value


def _turned(words: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in words.items()}
