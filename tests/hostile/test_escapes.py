"""Terminal escapes in every text that a peer may choose: no person's terminal gets any."""

import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.table import Table
from rich.text import Text

from fedmore.client.cli import main as client_cli
from fedmore.coordinator.cli import main as coordinator_cli
from fedmore.coordinator.cli import operators
from fedmore.coordinator.monitor import status as statuses
from fedmore.coordinator.monitor.dashboard import make_observer
from fedmore.coordinator.store import state_keys
from fedmore.experts.errors import ConfigError, DataError, FedmoreError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.protos.enrolment.invite import parse_invite
from fedmore.protos.runtime import exits
from fedmore.protos.runtime.logs import also, logged
from fedmore.protos.system.terminal import console, show_traceback, visible
from fedmore.protos.wire.status import KEY, from_rpc
from fedmore.strategies import events

ESCAPES = {
    "clears the screen": "x\x1b[2J\x1b[H",
    "sets the title": "x\x1b]0;owned\x07",
    "writes the clipboard": "x\x1b]52;c;cm0gLXJmCg==\x1b\\",
    "C1 codes": "x\x9b2Jy\x90z\x9c",
    "backspaces": "safe\b\b\b\bevil",
    "returns": "refused\rallowed",
    "deletes": "x\x7f\x7f",
    "turns round": "x\u202egnp.exe\u2066y",
    "separators": "x\u2028y\u2029z",
    "NUL and bell": "x\x00\x07",
    "surrogates": "x\udc1b[2J",
}
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)

every = pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)


def harmless(shown: str) -> None:
    assert shown.strip()
    assert OBEYED.findall(shown) == []


class Refused(grpc.RpcError):
    """What gRPC raises: status, details and trailing metadata are the peer's."""

    def __init__(self, details: str, trailing: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__()
        self._details, self._trailing = details, trailing

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._trailing


def failing(error: FedmoreError) -> None:
    with pytest.raises(SystemExit):
        exits.fail(error)


OF_THE_COORDINATOR: dict[str, Callable[[str], object]] = {
    "details": lambda text: failing(from_rpc(Refused(text), "hub:1")),
    "a message": lambda text: failing(
        from_rpc(Refused("", ((KEY, f"DataError {text}"),)), "hub:1")
    ),
    "a status": lambda text: client_cli.say(f"{from_rpc(Refused(text), 'hub:1')}; trying again"),
    "a line": client_cli.say,
    "an error": lambda text: failing(DataError(text)),
    "a traceback": lambda text: show_traceback(ValueError, ValueError(text), None),
}


@every
@pytest.mark.parametrize("kind", OF_THE_COORDINATOR)
def test_nothing_of_the_coordinators_reaches_the_owners_terminal(
    kind: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    OF_THE_COORDINATOR[kind](text)
    out, err = capsys.readouterr()
    harmless(out + err)


@every
@pytest.mark.parametrize("field", ["name", "base", "fingerprint", "dtype", "quantization"])
def test_what_a_federation_says_of_itself_is_a_line_of_text(field: str, text: str) -> None:
    values = {"name": "demo", "base": "base"} | {field: text.replace("\udc1b", "\x1b")}
    with pytest.raises(WireError, match=f"the federation's {field} is ") as caught:
        FederationInfo.from_proto(pb.FederationInfo(**values))
    harmless(str(caught.value))


@every
@pytest.mark.parametrize("field", ["federation", "name", "address"])
def test_an_invite_with_such_a_name_is_refused(field: str, text: str) -> None:
    table = dict.fromkeys(("ca", "certificate", "key")) | {
        "federation": "demo", "name": "amt", "address": "hub:1", "token": "t",
        "expires": "2030-01-01T00:00:00+00:00",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=f"{field}: ") as caught:
        parse_invite(json.dumps(table | {field: text}), "amt.json")
    harmless(str(caught.value))


EVENTS: dict[str, Callable[[str], events.Event]] = {
    "joined": lambda text: events.Joined(text, text, text, 4),
    "left": lambda text: events.Left(text, text),
    "withdrawn": lambda text: events.Withdrawn(text, text),
    "failed": lambda text: events.Received(text, text, 3, text),
    "refused": lambda text: events.Refused(text, text, text),
    "progress": lambda text: events.Progress(text, text, 1, 1, 1, 0.5, 1.0, 7),
    "warned": lambda text: events.RoundFinished(0, 0, {"warnings": [text]}),
    "evaluated": lambda text: events.Evaluated(text, {}),
}


@every
@pytest.mark.parametrize("kind", EVENTS)
def test_nothing_of_a_members_reaches_the_operators_terminal(kind: str, text: str) -> None:
    out = io.StringIO()
    with make_observer(console(file=out), "demo", 2, live=False) as observer:
        observer(EVENTS[kind](text))
        observer.say(text)
    harmless(out.getvalue())


@every
def test_nothing_reaches_a_live_display(text: str) -> None:
    """The display has codes of its own, which come without colours as cursor movements alone."""
    out = io.StringIO()
    screen = console(file=out, force_terminal=True, color_system=None, width=200, height=30)
    with make_observer(screen, "demo", 2) as observer:
        for event in EVENTS.values():
            observer(event(text))
    own = re.compile("\x1b\\[(?:\\?25[lh]|\\d*A|2K|[013-9;]*m)|\r")
    harmless(own.sub("", out.getvalue()))
    assert "\x1b[2J" not in out.getvalue()


@every
def test_nothing_reaches_a_table_of_a_remote_coordinator(text: str) -> None:
    out = io.StringIO()
    table = Table(text, title=text)
    table.add_row(Text(text))
    status = {
        "federation": text, "phase": state_keys.FAILED, "failure": text, "expected": 2,
        "base": {"model": text, "fingerprint": text}, "members": [], "invited": [text],
        "stages": [{"kind": text, "done": 0, "rounds": 1, "failures": [text], "ended": text}],
        "left_out": {text: text},
    }  # fmt: skip
    console(file=out, width=200).print(table, statuses.status_view(status))
    harmless(out.getvalue())


@every
def test_nothing_reaches_the_terminal_by_a_command_of_the_operators(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator_cli.say(text)
    coordinator_cli.show({"failure": text}, as_json=True)
    operators.echo(text)
    out, err = capsys.readouterr()
    harmless(out + err)


@every
def test_a_log_has_one_line_for_each_record(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    # What pytest itself would keep, surrogates and all, does not travel between its processes.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with logged(tmp_path / "a.log") as log:
        also(log, said.append)(text)
        log.warning("a member says: %s", text + "\n2026-01-01 ERROR forged")
        try:
            raise ValueError(text)
        except ValueError:
            logging.getLogger("fedmore.test").exception("failed")
    lines = (tmp_path / "a.log").read_text(encoding="utf-8").splitlines()
    harmless("\n".join(lines))
    assert not any(line.startswith("2026-01-01 ERROR forged") for line in lines)


def test_text_of_every_script_stays_as_it_is() -> None:
    text = "olá 漢字 שלום مرحبا 👩‍💻 a\tb\nc"
    assert visible(text) == text


def test_codes_of_our_own_still_work() -> None:
    out = io.StringIO()
    screen: Any = console(file=out, force_terminal=True, color_system="standard")
    screen.print(Text("red", style="red"))
    assert out.getvalue() == "\x1b[31mred\x1b[0m\n"
