"""Which version of each expert is in use: promoted, held with a reason, or neither.

A mixture takes the promoted version of an expert. A new version is promoted at once, unless the
gate holds it. Without an entry here, as in the folders of earlier programs, the newest version is
the promoted one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fedmore.coordinator.store.records import ExpertRow
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import HELD, PROMOTIONS
from fedmore.experts.errors import RegistryError
from fedmore.experts.names import there_are

PROMOTED, ON_HOLD, OTHER = "promoted", "held", ""
"""The states of a version."""

Entry = dict[str, Any]
"""What is known of one expert: the `promoted` digest (None: no version is in use), the `held` ones
with `why` and `scores`, and after a withdrawal the `yardstick` that a version must reach."""


def entries(registry: Registry) -> dict[str, Entry]:
    """The entries of all experts; an earlier version of fedmore wrote none for a held expert."""
    old: Mapping[str, Any] = registry.get_state(HELD, {})
    found: dict[str, Entry] = {
        name: {"promoted": None, "held": {}, "yardstick": {**each["scores"], "why": each["why"]}}
        for name, each in old.items()
    }
    later: dict[str, Entry] = registry.get_state(PROMOTIONS, {})
    return found | later


def entry_of(registry: Registry, name: str) -> Entry:
    """The entry of an expert, also of one that has none."""
    return {"held": {}, **entries(registry).get(name, {})}


def write_entry(registry: Registry, name: str, entry: Entry) -> None:
    """Write the entry of an expert; versions that are gone are left out of it."""
    there = {row.digest for row in registry.experts() if row.name == name}
    entry = entry | {"held": {d: each for d, each in entry["held"].items() if d in there}}
    registry.set_state(PROMOTIONS, entries(registry) | {name: entry})


def promoted(registry: Registry, name: str) -> ExpertRow | None:
    """The version of an expert that is in use; None if there is none, or none that may be."""
    rows = [row for row in registry.experts() if row.name == name]
    entry = entry_of(registry, name)
    if entry.get("promoted", "") is None:
        return None
    chosen = [row for row in rows if row.digest == entry.get("promoted")]
    free = [row for row in rows if row.digest not in entry["held"]]
    found = chosen or free
    return found[-1] if found else None


def in_use(registry: Registry) -> dict[str, ExpertRow]:
    """The promoted version of every expert that has one, in order of names."""
    names = sorted({row.name for row in registry.experts()})
    found = {name: promoted(registry, name) for name in names}
    return {name: row for name, row in found.items() if row is not None}


def get_promoted(registry: Registry, name: str) -> ExpertRow:
    """The promoted version; raises `RegistryError` with the reason if there is none."""
    row = promoted(registry, name)
    if row is not None:
        return row
    if why := why_held(registry).get(name):
        raise RegistryError(
            f"no version of {name} is in use: held, {why}; `coordinator experts promote` decides "
            "otherwise"
        )
    known = there_are((row.name for row in registry.experts()), "coordinator experts DIR")
    raise RegistryError(f"no expert named {name!r}; {known}")


def state_of(registry: Registry, row: ExpertRow) -> str:
    """Whether a version is promoted, held, or neither."""
    used = promoted(registry, row.name)
    if used is not None and used.digest == row.digest:
        return PROMOTED
    return ON_HOLD if row.digest in entry_of(registry, row.name)["held"] else OTHER


def why_held(registry: Registry) -> dict[str, str]:
    """Why an expert's newest version is held, or no version of it is in use, by expert."""
    found = {}
    for name, entry in sorted(entries(registry).items()):
        rows = [row for row in registry.experts() if row.name == name]
        newest = entry["held"].get(rows[-1].digest) if rows else None
        if newest:
            found[name] = str(newest["why"])
        elif entry.get("promoted", "") is None:
            found[name] = str(entry.get("yardstick", {}).get("why", "no version is promoted"))
    return found


def promote(registry: Registry, row: ExpertRow, scores: Mapping[str, Any] | None = None) -> None:
    """Make a version the promoted one of its expert; it is not held any more."""
    entry = entry_of(registry, row.name)
    used = promoted(registry, row.name)
    if "promoted" not in entry and used is not None and used.digest == row.digest:
        return
    held = {digest: each for digest, each in entry["held"].items() if digest != row.digest}
    write_entry(registry, row.name, _scored({"promoted": row.digest, "held": held}, scores))


def set_yardstick(registry: Registry, name: str, scores: Mapping[str, Any], why: str) -> None:
    """Use no version until one is within the margin of these scores, after a withdrawal."""
    entry = entry_of(registry, name) | {"promoted": None, "yardstick": {**scores, "why": why}}
    write_entry(registry, name, entry)


def forget_yardstick(registry: Registry, name: str) -> None:
    """Use the newest version that is not held again."""
    entry = entry_of(registry, name)
    if "yardstick" in entry:
        write_entry(registry, name, {"held": entry["held"]})


def forget_gone(registry: Registry) -> None:
    """Remove versions that are gone from the entries, so that nothing refers to their blobs."""
    there = {(row.name, row.digest) for row in registry.experts()}
    for name, entry in entries(registry).items():
        held = {digest: each for digest, each in entry["held"].items() if (name, digest) in there}
        left = entry | {"held": held}
        if entry.get("promoted") is not None and (name, entry["promoted"]) not in there:
            left = {key: each for key, each in left.items() if key not in ("promoted", "record")}
        if left != entry:
            write_entry(registry, name, left)


def hold(
    registry: Registry, row: ExpertRow, why: str, scores: Mapping[str, Any] | None = None
) -> ExpertRow | None:
    """Hold a version, with the reason; returns the version that is then in use, if any.

    If it was the promoted one, the newest older version that is not held takes its place.
    """
    entry, used = entry_of(registry, row.name), promoted(registry, row.name)
    held = entry["held"] | {row.digest: _scored({"why": why}, scores)}
    if used is None or used.digest == row.digest:
        rows = [each for each in registry.experts() if each.name == row.name]
        older = [each for each in rows if each.id < row.id and each.digest not in held]
        used = older[-1] if older and used is not None else None
    entry |= {"held": held, "promoted": used and used.digest}
    write_entry(registry, row.name, entry)
    return used


def named(registry: Registry, text: str, rows: Sequence[ExpertRow] | None = None) -> ExpertRow:
    """The version whose digest begins with `text`; an expert's name is its newest version.

    Raises `RegistryError` with the versions that there are, or that the text could mean.
    """
    rows = registry.experts() if rows is None else rows
    if of_name := [row for row in rows if row.name == text]:
        return of_name[-1]
    found = {row.digest: row for row in rows if text and row.digest.startswith(text)}
    if len(found) == 1:
        return next(iter(found.values()))
    options = found.values() or rows
    known = there_are((f"{row.name} {row.digest[:12]}" for row in options), "experts DIR")
    what = "names several versions" if found else "no version begins with this"
    raise RegistryError(f"{text!r}: {what}; {known}")


def _scored(entry: Entry, scores: Mapping[str, Any] | None) -> Entry:
    return entry | ({"scores": dict(scores)} if scores else {})
