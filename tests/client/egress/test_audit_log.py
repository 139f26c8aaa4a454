"""The record of what has left: complete, chained, and read back."""

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from thinning import examples
from typer.testing import CliRunner

from fedmore.client.cli.main import app
from fedmore.client.egress.audit_log import FILE, HEAD, SUM_S, Audit, read_lines
from fedmore.client.egress.audit_report import numbers_of, read_ledger, view
from fedmore.client.state.two_slot_file import SIZE
from fedmore.experts.errors import ConfigError, EgressError


@pytest.fixture
def folder(tmp_path):
    """A record of seven lines."""
    audit = Audit(tmp_path)
    audit.record("hello", 10)
    for _ in range(3):
        audit.record("heartbeat", 4)
    array = {"name": "update/change", "codec": "fedmore.sign1", "shape": [34], "bytes": 34,
             "digest": "d" * 64, "factors": {"4x32": 2}}  # fmt: skip
    audit.note("allowed", "t1", kind="train", arrays=[array], values={"metrics/loss": 1.5})
    audit.record("upload", 1000, digest="d" * 64)
    audit.record("upload", 500, digest="d" * 64)
    audit.record("reply", 90, task="t1")
    audit.note("refused", "t2", reason="EgressError: no")
    audit.record("leave", 5)
    audit.close()
    return tmp_path


def test_every_byte_is_there_once(folder):
    ledger = read_ledger(folder)
    assert ledger.totals == {
        "hello": {"messages": 1, "bytes": 10},
        "heartbeat": {"messages": 3, "bytes": 12},
        "upload": {"messages": 2, "bytes": 1500},
        "reply": {"messages": 1, "bytes": 90},
        "leave": {"messages": 1, "bytes": 5},
    }
    assert ledger.bytes == 1617
    assert [line["call"] for line in ledger.lines] == [
        "hello", "heartbeat", "allowed", "upload", "reply", "refused", "leave",
    ]  # fmt: skip


def test_it_goes_on_where_it_stopped(folder):
    Audit(folder).record("hello", 7)
    assert read_ledger(folder).bytes == 1624


calls = st.tuples(
    st.sampled_from(["hello", "heartbeat", "upload", "progress", "reply"]),
    st.integers(0, 1 << 40),
    st.sampled_from(["", "t1", "t2"]),
)


@settings(max_examples=examples(12))
@given(st.lists(st.one_of(calls, st.none()), max_size=12))
def test_the_total_is_what_was_recorded_whenever_the_process_is_killed(steps):
    """None is a kill: the object is dropped without `close`, as nothing is kept in memory."""
    with tempfile.TemporaryDirectory() as name:
        check_total(Path(name), steps)


def check_total(folder, steps):
    audit, total = None, 0
    for step in steps:
        if step is None:
            assert audit is None or read_ledger(folder).bytes == total
            audit = None
            continue
        audit = audit or Audit(folder)
        call, size, task = step
        audit.record(call, size, task=task)
        total += size
    assert not any(steps) or read_ledger(folder).bytes == total


def test_sums_are_written_down_after_a_while(tmp_path):
    now = [1e9]
    audit = Audit(tmp_path, clock=lambda: now[0])
    audit.record("heartbeat", 4)
    assert read_lines(tmp_path / FILE) == []
    now[0] += SUM_S
    audit.record("heartbeat", 4)
    (line,) = read_lines(tmp_path / FILE)
    assert (line["bytes"], line["messages"]) == (8, 2)
    assert read_ledger(tmp_path).bytes == 8


def test_a_crash_between_lines_and_head_counts_nothing_twice(tmp_path):
    audit = Audit(tmp_path)
    audit.record("heartbeat", 4)
    before = (tmp_path / HEAD).read_bytes()
    audit.record("hello", 10)
    audit.close()
    (tmp_path / HEAD).write_bytes(before)
    assert read_ledger(tmp_path).bytes == 14
    Audit(tmp_path).record("hello", 10)
    assert read_ledger(tmp_path).bytes == 24


def test_an_unfinished_line_is_cut_off_and_that_is_noted(folder):
    with (folder / FILE).open("a") as file:
        file.write('{"number": 8, "ti')
    audit = Audit(folder)
    assert read_lines(folder / FILE)[-1]["reason"] == "17 bytes of an unfinished line were cut off"
    audit.record("hello", 1)
    assert read_ledger(folder).bytes == 1618


def change(lines):
    lines[2] = lines[2].replace('"metrics/loss": 1.5', '"metrics/loss": 1.4')


def rewrite(lines):
    """As one would who knows the format: the hash of the line is right, the next one's is not."""
    from fedmore.client.egress.audit_log import hash_of

    line = json.loads(lines[2]) | {"values": {}}
    lines[2] = json.dumps(line | {"hash": hash_of(line)}) + "\n"


def drop(lines):
    del lines[3]


def swap(lines):
    lines[3], lines[4] = lines[4], lines[3]


def cut(lines):
    del lines[-2:]


@pytest.mark.parametrize("tamper", [change, rewrite, drop, swap, cut])
def test_tampering_shows(folder, tamper):
    lines = (folder / FILE).read_text().splitlines(keepends=True)
    tamper(lines)
    (folder / FILE).write_text("".join(lines))
    with pytest.raises(EgressError, match=r"changed|missing|cut"):
        read_ledger(folder)


def test_two_processes_write_one_chain(tmp_path):
    """`client withdraw` while `client join` runs."""
    one, other = Audit(tmp_path), Audit(tmp_path)
    for audit in (one, other, one, other):
        audit.record("heartbeat", 4)
        audit.record("progress", 30)
        audit.record("hello", 10)
    ledger = read_ledger(tmp_path)
    assert ledger.bytes == 4 * 44
    assert len(ledger.lines) == 12


def test_threads_lose_nothing(tmp_path):
    audit = Audit(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: audit.record("hello" if i % 9 == 0 else "upload", i), range(90)))
    assert read_ledger(tmp_path).bytes == sum(range(90))


def test_nothing_is_added_to_a_record_that_was_cut(folder):
    audit = Audit(folder)
    lines = (folder / FILE).read_text().splitlines(keepends=True)
    (folder / FILE).write_text("".join(lines[:-1]))
    with pytest.raises(EgressError, match="has lost lines"):
        audit.record("hello", 1)


def test_a_torn_write_of_the_head_leaves_the_one_before(tmp_path):
    audit = Audit(tmp_path)
    for _ in range(5):
        audit.record("heartbeat", 4)
    data = bytearray((tmp_path / HEAD).read_bytes())
    for slot in (0, SIZE):
        torn = bytearray(data)
        torn[slot + 70] ^= 1
        (tmp_path / HEAD).write_bytes(torn)
        assert read_ledger(tmp_path).bytes in (16, 20)
    (tmp_path / HEAD).write_bytes(b"x" * 2 * SIZE)
    with pytest.raises(EgressError, match="damaged"):
        audit.record("hello", 1)


def test_many_sums_are_written_down(tmp_path):
    audit = Audit(tmp_path)
    for number in range(100):
        audit.record("upload", 1, digest=f"{number:064}", task="t" * 64)
    assert read_ledger(tmp_path).bytes == 100


def test_nothing_is_sent_that_cannot_be_recorded(folder, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    audit = Audit(folder)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EgressError, match=r"No space left.*nothing leaves this machine without"):
        audit.record("hello", 1)


def test_the_command(folder):
    shown = CliRunner().invoke(app, ["audit", str(folder), "--json"])
    table = json.loads(shown.stdout)
    assert table["bytes"] == 1617
    assert len(table["lines"]) == 7
    shown = CliRunner().invoke(app, ["audit", str(folder)], env={"COLUMNS": "80"})
    assert max(map(len, shown.stdout.splitlines())) <= 80
    for words in (
        "update/change",
        "fedmore.sign1",
        "REFUSED",
        "1,617",
        "7 lines",
        "t1",
        "2 of 4x32",
    ):
        assert words in shown.stdout
    missing = CliRunner().invoke(app, ["audit", str(folder / "..")])
    assert isinstance(missing.exception, ConfigError)


def test_on_a_terminal_of_80_columns_no_word_is_broken(folder):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(view(read_ledger(folder)))
    shown = console.file.getvalue()
    for words in ("update/change as fedmore.sign1", "256 numbers", "2 of 4x32"):
        assert any(words in line for line in shown.splitlines())


def test_what_goes_into_a_pipe_is_not_wrapped(tmp_path):
    reason = "a long reason " * 20
    with Audit(tmp_path) as audit:
        audit.note("refused", "t1", reason=reason)
    shown = CliRunner().invoke(app, ["audit", str(tmp_path)], env={"COLUMNS": "80"})
    assert reason.strip() in shown.stdout


def test_what_a_coordinator_asked_for_stays_text(tmp_path):
    with Audit(tmp_path) as audit:
        audit.note("refused", "t1", reason="asked for '[/x]\x1b[31m'")
    shown = CliRunner().invoke(app, ["audit", str(tmp_path)], env={"COLUMNS": "160"})
    assert "[/x]" in shown.stdout
    assert "\x1b[31m" not in shown.stdout


def test_bits_per_number_come_from_the_factors(folder):
    (line,) = [line for line in read_ledger(folder).lines if line["call"] == "allowed"]
    assert numbers_of(line["arrays"][0]) == 256
    assert numbers_of({"shape": [3, 5]}) == 15


def test_neither_audit_nor_guard_imports_torch():
    modules = ("audit_log", "guard", "audit_report")
    names = ", ".join(f"fedmore.client.egress.{name}" for name in modules)
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
