"""Versions as a tree of what was made from what, and the lines of their verification."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.promotion import entry_of, state_of
from fedmore.coordinator.lineage.records import record_of
from fedmore.coordinator.lineage.verification import Verified
from fedmore.coordinator.store.records import ExpertRow
from fedmore.experts.spec import rank_name
from fedmore.protos.system.terminal import plain

SHORT = 12
"""Digits of a digest that are shown; they are enough to name a version."""
LONGEST = 300


def tree_view(federation: Federation) -> RenderableType:
    """A tree for every expert: its versions, each below the one that it was made from."""
    rows = federation.registry.experts()
    if not rows:
        return Text("no expert yet; the first round makes the first version of each")
    names = sorted({row.name for row in rows})
    return Group(*(_tree(federation, name, _of(rows, name)) for name in names))


def lines_of(found: Verified) -> list[str]:
    """What a verification has found, for an operator."""
    lines = [f"{len(found.signed)} versions are as their signed records say"]
    if found.key:
        lines.append(f"signed by the key {found.key}")
    lines += [
        f"{row.name} {row.digest[:SHORT]}: no record, made by an earlier fedmore"
        for row in found.unsigned
    ]
    lines += [f"{path}: the withdrawal is as it was signed" for path in found.withdrawals]
    return lines


def _of(rows: Sequence[ExpertRow], name: str) -> list[ExpertRow]:
    return [row for row in rows if row.name == name]


def _tree(federation: Federation, name: str, rows: Sequence[ExpertRow]) -> Tree:
    root, nodes = Tree(Text(plain(name, LONGEST), style="bold")), dict[str, Tree]()
    for row in rows:
        record = record_of(federation, row)
        parents = [parent["version"] for parent in (record or {}).get("parents", ())]
        above = next((nodes[parent] for parent in parents if parent in nodes), root)
        gone = [parent[:SHORT] for parent in parents if parent not in nodes]
        nodes[row.digest] = above.add(_label(federation, row, record, gone))
    return root


def _label(
    federation: Federation, row: ExpertRow, record: Mapping[str, Any] | None, gone: Sequence[str]
) -> Text:
    registry = federation.registry
    entry = entry_of(registry, row.name)["held"].get(row.digest, {})
    origin = record["origin"] if record else "no record"
    rank = f"rank {rank_name(row.rank)}"
    parts = [row.digest[:SHORT], state_of(registry, row), origin, _place(row), rank]
    parts.append(", ".join(row.metrics.get("owners", ())) or "no owner")
    if score := _score(row):
        parts.append(score)
    if entry:
        parts.append(f"held: {entry['why']}")
    if gone:
        parts.append(f"from {', '.join(gone)}, which is gone")
    return Text("  ".join(plain(part, LONGEST) for part in parts if part))


def _place(row: ExpertRow) -> str:
    return "" if row.stage < 0 else f"stage {row.stage + 1} round {row.round}"


def _score(row: ExpertRow) -> str:
    """The bits per byte by which a version was judged, if it was."""
    scores = row.metrics.get("scores", {})
    found = next((scores[key] for key in ("now", "scaled", "after") if key in scores), None)
    return "" if found is None else f"{found:.3f} bits per byte"


def difference_lines(found: Mapping[str, Any]) -> list[str]:
    """What differs between two versions, a line for each thing."""
    names = [
        f"{name} {digest[:SHORT]}"
        for name, digest in zip(found["experts"], found["versions"], strict=True)
    ]
    ranks = [f"{low}" if low == high else f"{low} to {high}" for low, high in found["ranks"]]
    distance = "–" if found["distance"] is None else f"{found['distance']:.4f}"
    lines = [
        f"{names[0]} and {names[1]}",
        f"ranks: {ranks[0]}; {ranks[1]}",
        f"parameters: {found['params'][0]:,}; {found['params'][1]:,}",
        f"norms: {found['norms'][0]:.4f}; {found['norms'][1]:.4f}",
        f"distance: {distance} of the first's norm",
    ]
    lists = ("owners_added", "owners_gone", "contributions_changed")
    lines += [f"{key.replace('_', ' ')}: {', '.join(found[key])}" for key in lists if found[key]]
    lines += [f"{key}: {one}; {two}" for key, (one, two) in found["settings"].items()]
    if any(found["scores"]):
        lines.append(f"scores: {found['scores'][0]}; {found['scores'][1]}")
    return [plain(line, LONGEST) for line in lines]
