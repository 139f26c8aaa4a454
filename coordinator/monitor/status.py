"""`coordinator status` and `coordinator experts`: the registry as data and as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedmore.coordinator.folder import layout, withdrawals_begun
from fedmore.coordinator.folder.evaluation_file import read_scores
from fedmore.coordinator.folder.federation import Federation, is_running
from fedmore.coordinator.folder.layout import EVALUATION, MIXTURE
from fedmore.coordinator.lineage.promotion import state_of, why_held
from fedmore.coordinator.monitor.dashboard import cell, size
from fedmore.coordinator.store.registry import FILE, ExpertRow, Member, Registry
from fedmore.coordinator.store.state_keys import (
    FAILED,
    FAILURE,
    INTERRUPTED,
    LEFT_OUT,
    NEW,
    PHASE,
    RUNNING,
    SKIPPED,
    WAITING,
)
from fedmore.experts.spec import rank_name
from fedmore.protos.system.terminal import plain

LONGEST = 1_000


def status(federation: Federation) -> dict[str, Any]:
    """The contents of `coordinator status --json`."""
    config, registry = federation.config, federation.registry
    return {
        "federation": config.federation.name,
        "directory": str(federation.directory),
        "phase": phase(federation),
        "failure": registry.get_state(FAILURE),
        "app": config.federation.app,
        "run_config": config.federation.run_config,
        "base": {"model": config.base.model, "fingerprint": config.base.fingerprint},
        "expected": config.federation.clients,
        "members": member_rows(registry),
        "invited": [m.name for m in registry.invited()],
        "stages": stages(federation),
        "experts": len({e.name for e in registry.experts()}),
        "left_out": registry.get_state(LEFT_OUT, {})
        | {name: f"held back, {why}" for name, why in why_held(registry).items()},
        "withdrawals": withdrawals_begun.told(federation),
    }


def phase(federation: Federation) -> str:
    """The federation's phase; if its coordinator was killed, it is "interrupted"."""
    known = str(federation.registry.get_state(PHASE, NEW))
    if known in (WAITING, RUNNING) and not is_running(federation.directory):
        return INTERRUPTED
    return known


def member_row(member: Member) -> dict[str, Any]:
    """A member as JSON, without its node id."""
    return {k: jsonable(v) for k, v in asdict(member).items() if k != "node_id"}


def member_rows(registry: Registry) -> list[dict[str, Any]]:
    """All members, each with the `epochs` of its text that it has been trained on so far."""
    epochs = epochs_of(registry)
    return [{**member_row(m), "epochs": epochs.get(m.name, 0.0)} for m in registry.members()]


def epochs_of(registry: Registry) -> dict[str, float]:
    """Epochs that each client has trained on its text, as reported in its last round."""
    return {
        name: float(said["epochs"])
        for row in registry.rounds()
        for name, said in row.metrics.get("clients", {}).items()
        if "epochs" in said
    }


def stages(federation: Federation) -> list[dict[str, Any]]:
    """Each stage's kind, rounds, finished rounds, and failed clients of the last round.

    A federation with a foreign app has no stages.
    """
    if federation.config.federation.app:
        return []
    rounds, skipped = federation.registry.rounds(), federation.registry.get_state(SKIPPED, {})
    found = []
    for index, stage in enumerate(federation.config.stages):
        done = [row for row in rounds if row.stage == index]
        failures = [text for row in done[-1:] for text in row.metrics.get("failures", ())]
        entry = {"kind": stage.kind, "rounds": stage.rounds, "done": len(done)}
        entry |= {"failures": failures, "ended": skipped.get(stage.kind)}
        found.append(entry | {"experts": done[-1].metrics.get("experts", {}) if done else {}})
    return found


def limits_line(name: str, told: Mapping[str, Any]) -> str:
    """What an expert's ranks and their cuts were in its last round; empty if it has none."""
    if "summed_rank" not in told:  # a round of an earlier version, or an expert in few bits
        return ""
    kept = f"rank {told['rank']} of {told['summed_rank']}, error {told['aggregation_error']:.1e}"
    line = f"{name}: kept {kept}, {size(told['stored_bytes'])}"
    if "broadcast_rank" not in told:
        return line
    sent = f"rank {told['broadcast_rank']}, error {told['broadcast_error']:.1e}"
    each, every = (size(told[k]) for k in ("download_bytes_per_owner", "download_bytes"))
    return f"{line}; sent {sent}, {each} an owner, {every} in all"


def experts(federation: Federation) -> list[dict[str, Any]]:
    """Every version of every expert, the contents of `coordinator experts --json`."""
    registry = federation.registry
    return [{**expert_row(e), "state": state_of(registry, e)} for e in registry.experts()]


def expert_row(expert: ExpertRow) -> dict[str, Any]:
    """A version as JSON."""
    return {k: jsonable(v) for k, v in asdict(expert).items() if k != "id"}


def jsonable(value: Any) -> Any:
    """Convert a time to ISO 8601; return any other value unchanged."""
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """Format the status for a person."""
    parts: list[RenderableType] = [
        Text(f"{status['federation']}: {status['phase']}", style="bold"),
        Text(_runs(status)),
        Text(members_line(status)),
    ]
    if status["failure"] and status["phase"] == FAILED:
        parts.append(Text(f"last failure: {status['failure']}", style="red"))
    parts += [Text(plain(text, LONGEST), style="red") for text in status.get("withdrawals", ())]
    if status["members"]:
        parts.append(members_table(status["members"]))
    if status["invited"]:
        parts.append(Text(f"invited, not yet here: {', '.join(status['invited'])}"))
    for i, stage in enumerate(status["stages"], 1):
        done = f"{stage['done']} of {stage['rounds']} rounds done"
        parts.append(Text(f"stage {i}: {stage['kind']}, {done}"))
        lines = [limits_line(name, told) for name, told in stage.get("experts", {}).items()]
        parts += [Text(f"  {plain(line, LONGEST)}") for line in lines if line]
        parts += [Text(f"  went on without {plain(f, LONGEST)}") for f in stage["failures"]]
        if stage["ended"]:
            parts.append(Text(f"  ended early: {plain(stage['ended'], LONGEST)}", style="yellow"))
    parts += [
        Text(f"left out of the mixture: {plain(f'{name}: {why}', LONGEST)}", style="yellow")
        for name, why in status["left_out"].items()
    ]
    return Group(*parts)


def members_line(status: Mapping[str, Any]) -> str:
    """Numbers of present and expected members, and of excluded ones."""
    barred = [last_seen(m) for m in status["members"] if m["revoked_at"] or m["withdrawn_at"]]
    here = len(status["members"]) - len(barred)
    more = [f"{barred.count(how)} {how}" for how in sorted(set(barred))]
    return f"members: {here} of {status['expected']}" + (f" ({', '.join(more)})" if more else "")


def _runs(status: Mapping[str, Any]) -> str:
    """The federation's base, or its foreign app with its values."""
    if not status.get("app"):
        return f"base {status['base']['model']} ({status['base']['fingerprint'][:19]}…)"
    values = ", ".join(f"{key}={value!r}" for key, value in status["run_config"].items())
    return plain(f"Flower app {status['app']}" + (values and f" with {values}"), LONGEST)


def narrow_table(*headings: str) -> Table:
    """A table without lines, whose cells fit 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def members_table(members: Sequence[Mapping[str, Any]]) -> Table:
    """A table with one line per member."""
    table = narrow_table("client", "trains", "rank", "up", "down", "tokens", "epochs", "last seen")
    for m in members:
        table.add_row(
            cell(m["name"]),
            cell(f"{m['kind']} {m['target']}"),
            cell(m.get("ranks") or str(m["rank"])),
            size(m["bytes_up"]),
            size(m["bytes_down"]),
            str(m["train_tokens"]),
            f"{m.get('epochs', 0.0):.2f}",
            last_seen(m),
        )
    return table


def last_seen(member: Mapping[str, Any]) -> str:
    """The time when a member was last seen, or that it is excluded."""
    barred = [word for word in ("revoked", "withdrawn") if member[f"{word}_at"]]
    return barred[0] if barred else clock_time(member["last_seen"])


def clock_time(moment: str | None) -> str:
    """Format an ISO 8601 time in local time, for a narrow column."""
    return f"{datetime.fromisoformat(moment).astimezone():%d %b %H:%M:%S}" if moment else ""


def experts_view(versions: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Format the versions for a person."""
    if not versions:
        return Text("no expert yet; the first round makes the first version of each")
    headings = ("name", "kind", "target", "rank", "params", "stage", "round", "digest", "state")
    table = narrow_table(*headings)
    for v in versions:
        table.add_row(
            cell(v["name"]),
            cell(v["kind"]),
            cell(v["target"]),
            rank_name(v["rank"]),
            f"{v['params']:,}",
            "–" if v["stage"] < 0 else str(v["stage"] + 1),
            str(v["round"]),
            v["digest"][:12],
            v.get("state", ""),
        )
    return table


def evaluation_view(evaluation: Mapping[str, Any]) -> Table:
    """A table of bits per byte on held-out text: base, own expert and mixture."""
    table = narrow_table("bits/byte", "base", "own expert", "mixture")
    for text, scores in evaluation["bits_per_byte"].items():
        columns = (scores.get(k) for k in ("base", "own_expert", "mixture"))
        table.add_row(cell(text), *(score(s) for s in columns))
    return table


def score(value: Mapping[str, Any] | None) -> str:
    """Format a mean with its 95 % interval, which a single document does not have."""
    if value is None:
        return "–"
    if value["ci95"] is None:
        return f"{value['mean']:.3f}"
    low, high = value["ci95"]
    return f"{value['mean']:.3f} [{low:.3f}, {high:.3f}]"


def show_result(federation: Federation, console: Console) -> None:
    """Print the table of results and the paths of the files."""
    directory = federation.directory
    if members := member_rows(federation.registry):
        console.print(members_table(members))
    for name, why in why_held(federation.registry).items():
        console.print(f"held back: {plain(f'{name}, {why}', LONGEST)}", markup=False)
    if scores := read_scores(directory, federation.registry):
        console.print(evaluation_view(scores))
    names = (MIXTURE, EVALUATION, layout.APP_LOG, layout.APP_STATE, "mlflow.db")
    files = [directory / name for name in names if (directory / name).exists()]
    for path in (*files, directory / FILE):
        console.print(str(path), soft_wrap=True, highlight=False, markup=False)
