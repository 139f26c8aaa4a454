import io
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedmore.coordinator.monitor.dashboard import (
    LogObserver,
    TerminalObserver,
    make_observer,
    render,
    size,
)
from fedmore.coordinator.monitor.dashboard_state import Board, apply
from fedmore.coordinator.monitor.event_lines import line
from fedmore.coordinator.monitor.status import experts_view, members_table
from fedmore.strategies.events import (
    Evaluated,
    Event,
    Joined,
    Left,
    Progress,
    Received,
    RoundFinished,
    RoundStarted,
    Scoring,
    Sent,
    StageStarted,
    Traffic,
)

JOINED = Joined("amt", "expert", "legal", 16)
PROGRESS = Progress("amt", "experts", 0, 3, 10, 2.5, 410.0, 1536)
EVENTS: list[Event] = [
    JOINED,
    StageStarted(0, "experts", 3),
    RoundStarted(0, 1),
    Sent("amt", "t", 9),
    PROGRESS,
    Traffic("amt", 1_234_000, 400),
    Received("amt", "t", 9),
    RoundFinished(0, 1, {"clients": {"amt": {"loss": 2.25}}}),
    Evaluated("experts", {}),
    Left("amt", "no sign of life for 10 s"),
]


def board_of(events: Iterable[Event]) -> Board:
    board = Board("demo", 2)
    for event in events:
        board = apply(board, event)
    return board


def shown(board: Board) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(render(board))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_board_follows_the_events() -> None:
    board = board_of(EVENTS[:7])
    line_ = board.clients["amt"]
    assert (line_.kind, line_.target, line_.rank) == ("expert", "legal", "16")
    assert (line_.step, line_.steps, line_.loss, line_.state) == (3, 10, 2.5, "done")
    assert (line_.bytes_up, line_.bytes_down) == (1_234_000, 400)
    assert (board.kind, board.round, board.rounds, board.connected) == ("experts", 1, 3, 1)
    assert board_of(EVENTS).connected == 0


def test_a_new_round_starts_the_bars_over() -> None:
    assert board_of([JOINED, PROGRESS, RoundStarted(0, 2)]).clients["amt"].step == 0


@given(st.lists(st.sampled_from(EVENTS)))
def test_any_order_of_events_can_be_shown(events: list[Event]) -> None:
    assert "demo" in shown(board_of(events))


def test_what_a_person_sees() -> None:
    assert "waiting for clients: 1 of 2 here" in shown(board_of([JOINED]))
    text = shown(board_of(EVENTS[:6]))
    for expected in ("stage 1: experts", "round 2 of 3", "expert legal", "3/10", "2.500", "1.2 MB"):
        assert expected in text


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_every_event_is_one_line_or_none(event: Event) -> None:
    assert "\n" not in line(event)


def test_a_failure_names_client_and_cause() -> None:
    assert line(Received("amt", "t", 0, "DataError: empty")) == "amt failed: DataError: empty"


def test_plain_lines_show_progress_now_and_then() -> None:
    out, now = io.StringIO(), [0.0]
    observer = LogObserver(Console(file=out), Board("demo", 2), lambda: now[0])
    with observer:
        for step in range(1, 11):
            observer(Progress("amt", "experts", 0, step, 10, 2.0, 100.0, step * 10))
            now[0] += 1.0
    steps = [text.split()[2] for text in out.getvalue().splitlines()]
    assert steps == ["1/10,", "6/10,", "10/10,"]


def test_markup_in_a_name_stays_text() -> None:
    out = io.StringIO()
    LogObserver(Console(file=out), Board("demo", 2))(Left("amt", "[red]x[/red]"))
    assert "[red]x[/red]" in out.getvalue()


FOREIGN = "[/x]\x1b[31m\n" + "x" * 500


def test_what_a_client_calls_its_target_stays_text() -> None:
    board = apply(Board("demo", 2), Joined("amt", "expert", FOREIGN, 16))
    assert "[/x]" in shown(board)
    assert "\x1b" not in shown(board)
    assert "\x1b" not in line(Joined("amt", "expert", FOREIGN, 16))


def test_so_it_does_in_the_tables_of_members_and_experts() -> None:
    moment = "2026-01-01T00:00:00+00:00"
    member = {"name": "amt", "kind": "expert", "target": FOREIGN, "rank": 4, "bytes_up": 0,
              "bytes_down": 0, "train_tokens": 0, "revoked_at": None, "withdrawn_at": None,
              "last_seen": moment}  # fmt: skip
    expert = {"name": FOREIGN, "kind": "expert", "target": FOREIGN, "rank": 4, "params": 1,
              "stage": 0, "round": 1, "digest": "0" * 64}  # fmt: skip
    console = Console(file=io.StringIO(), width=200)
    for table in (members_table([member]), experts_view([expert])):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("[/x]") == 3
    assert "\x1b" not in console.file.getvalue()


def test_a_terminal_gets_the_live_board_and_a_pipe_gets_lines() -> None:
    out = io.StringIO()
    assert isinstance(make_observer(Console(file=out), "demo", 2), LogObserver)
    terminal = Console(file=out, force_terminal=True, width=120)
    observer = make_observer(terminal, "demo", 2)
    assert isinstance(observer, TerminalObserver)
    with observer:
        for event in EVENTS[:7]:
            observer(event)
    assert "amt joined: expert legal, rank 16" in out.getvalue()
    assert "round 2 of 3" in out.getvalue()


def test_sizes_are_for_people() -> None:
    counts = (0, 999, 1000, 3_400_000, 5e9)
    assert [size(n) for n in counts] == ["0 B", "999 B", "1.0 kB", "3.4 MB", "5.0 GB"]


def test_scoring_says_how_far_it_is_every_few_seconds() -> None:
    out, now = io.StringIO(), [0.0]
    observer = LogObserver(Console(file=out, width=80), Board("demo", 1), clock=lambda: now[0])
    for done in range(13):
        observer(Scoring("the mixture", done, 12))
        now[0] += 1.0
    shown = [line.split()[3] for line in out.getvalue().splitlines()]
    assert shown == ["0", "5", "10", "12"]
    assert observer.board.scoring == "scoring the mixture: 12 of 12"
    observer(Evaluated("mixture", {}))
    assert observer.board.scoring == ""
