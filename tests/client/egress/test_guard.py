"""What may be said beside answers: reasons of failures, and progress."""

import pytest

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.egress.guard import AuditOnlyGuard, noted_reason, reason_of, rounded
from fedmore.experts.errors import (
    BaseError,
    DataError,
    DeviceError,
    EgressError,
    FedmoreError,
    RankError,
    WireError,
)
from fedmore.protos.wire.flower_compat import make_reply, make_task
from fedmore.strategies.events import Report

SECRET = "clinic/Mrs Example.txt"


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        RuntimeError(SECRET),
        OSError(2, "no such file", SECRET),
        UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
        DataError(SECRET),
        BaseError(SECRET),
        DeviceError(SECRET),
        FedmoreError(SECRET),
    ],
)
def test_a_message_that_may_hold_text_or_a_path_stays(error):
    reason = reason_of(raised(error))
    assert "Example" not in reason
    assert reason.startswith(type(error).__name__)
    assert "(test_guard.py:" in reason


@pytest.mark.parametrize("cause", [WireError, RankError, EgressError, FloatingPointError])
def test_what_the_coordinator_said_itself_is_said_back(cause):
    assert reason_of(raised(cause("loss nan at step 3"))) == f"{cause.__name__}: loss nan at step 3"


def test_an_error_that_was_never_raised_has_no_place():
    assert reason_of(ValueError(SECRET)) == "ValueError; the message is in the client's own log"


def test_progress_says_no_more_than_a_display_needs():
    report = rounded(Report(3, 9, 2.34567, 81.23, 384))
    assert report == Report(3, 9, 2.35, 81.0, 384)


def test_a_loss_that_is_no_number_is_told():
    assert str(rounded(Report(1, 2, float("nan"), 1.0, 1)).loss) == "nan"


def test_the_foreign_guard_lets_through_and_notes(tmp_path):
    from flwr.app import ConfigRecord, RecordDict

    guard = AuditOnlyGuard(Audit(tmp_path))
    task = make_task(RecordDict(), task_id="t", node_id=5, message_type="query.x")
    reply = make_reply(task, RecordDict({"note": ConfigRecord({"text": "what it says"})}))
    assert guard.check_task(task)(reply) is reply
    assert "Example" not in guard.reason("t", raised(WireError(SECRET)))
    assert guard.progress(Report(1, 1, 0.123, 1.0, 1)).loss == 0.12
    (line,) = read_ledger(tmp_path).lines
    assert line["values"] == {"note/text": "what it says"}


def test_a_refusal_is_noted(tmp_path):
    AuditOnlyGuard(Audit(tmp_path)).reason("t", EgressError("asked for 'query.text'"))
    (line,) = read_ledger(tmp_path).lines
    assert (line["call"], line["task"]) == ("refused", "t")
    assert line["reason"] == "asked for 'query.text'"


def test_the_state_folder_is_not_named(tmp_path):
    error = WireError(f"{tmp_path}/downloads/abc: damaged")
    reason = noted_reason(Audit(tmp_path), "t", raised(error))
    assert reason == "WireError: …/downloads/abc: damaged"
