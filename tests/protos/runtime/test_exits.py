import os
import signal

import pytest

from fedmore.experts.errors import DataError, FedmoreError, RankError
from fedmore.protos.runtime import exits
from fedmore.protos.wire.status import exit_code


@pytest.mark.parametrize("error", [DataError("no text in x"), RankError("too high")])
def test_an_error_is_one_line_and_a_code(
    error: FedmoreError, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(exits.DEBUG, raising=False)

    def program() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        exits.run(program)
    assert stop.value.code == exit_code(error)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{type(error).__name__}: {error}\n"


def test_a_long_message_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        exits.fail(DataError("word " * 100 + "\n[red]end[/red]"))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "[red]end[/red]" in err


def test_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(exits.DEBUG, "1")

    def program() -> None:
        raise DataError("no text")

    with pytest.raises(SystemExit):
        exits.run(program)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_one_line_that_says_how_to_go_on(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, exits.interruptible("do it again"):
        signal.raise_signal(number)
    assert stop.value.code == code
    assert capsys.readouterr().err == "stopped; do it again\n"


def test_after_work_that_no_signal_ended_signals_do_what_they_did() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with exits.interruptible("do it again"):
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_on_the_way_out_a_signal_does_not_take_the_exit_code() -> None:
    def program() -> None:
        try:
            with exits.interruptible("do it again"):
                signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        program()
    assert stop.value.code == 130


def test_a_signal_that_comes_again_at_once_does_not_disturb_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            cleaned.append(True)

    with pytest.raises(SystemExit) as stop, exits.interruptible("do it again"):
        work()
    assert (stop.value.code, cleaned) == (130, [True])
    assert capsys.readouterr().err == "stopped; do it again\n"


def test_one_that_comes_later_ends_what_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "AGAIN_S", -1.0)

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("it was not ended")

    with pytest.raises(SystemExit) as stop, exits.interruptible("do it again"):
        work()
    assert stop.value.code == 143


def test_after_the_last_words_signals_are_ignored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def program() -> None:
        with exits.interruptible("do it again"):
            signal.raise_signal(signal.SIGTERM)

    try:
        with pytest.raises(SystemExit):
            exits.run(program)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_success_exits_zero() -> None:
    with pytest.raises(SystemExit) as stop:
        exits.run(lambda: None)
    assert stop.value.code == 0


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, exits.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)],
)
def test_idle_threads_of_torch_sleep_soon_unless_the_user_says_otherwise(monkeypatch, given, spins):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", *exits.QUIET):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = []
    with pytest.raises(SystemExit):
        exits.run(lambda: found.append(os.environ.get("GOMP_SPINCOUNT")))
    assert found == [spins]
