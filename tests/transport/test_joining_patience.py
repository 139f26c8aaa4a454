"""A client is as patient while it joins as it is afterwards."""

import threading

import pytest
from flwr.app import RecordDict

from fedmore.client.identity.enrolment import describe, enrol
from fedmore.client.joining.join import patiently
from fedmore.experts.errors import TokenError, TransportError
from fedmore.protos.wire.flower_compat import make_reply

CALLS = {
    "what is it": lambda invite, state: describe(invite),
    "enrolment": lambda invite, state: (
        enrol(invite, state, kind="expert", target="legal", rank=4).name
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_coordinator_that_comes_later_is_waited_for(federation, tmp_path, call):
    invite, port = federation.invite("ada"), federation.server.port
    federation.server.stop()
    said, found, tried = [], [], threading.Event()

    def told(line):
        said.append(line)
        tried.set()

    def ask():
        found.append(patiently(lambda: CALLS[call](invite, tmp_path / "state"), 60.0, told))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert tried.wait(30)
    federation.serve(port)
    thread.join(60)
    assert found == [federation.info if call == "what is it" else "ada"]
    [line] = said
    assert "cannot be reached" in line
    assert "trying for up to 60 s" in line


def test_what_will_not_pass_is_not_waited_for(federation, tmp_path):
    invite = federation.invite("ada")
    enrol(invite, tmp_path / "first", kind="expert", target="legal", rank=4)
    with pytest.raises(TokenError, match="has been used"):
        patiently(lambda: CALLS["enrolment"](invite, tmp_path / "second"), 60.0, pytest.fail)


def test_patience_ends_at_joining_too(federation, tmp_path):
    invite = federation.invite("ada")
    federation.server.stop()
    said = []
    with pytest.raises(TransportError, match=r"gave up after 0\.3 s"):
        patiently(lambda: CALLS["enrolment"](invite, tmp_path / "state"), 0.3, said.append)
    assert len(said) == 1


def test_who_has_joined_is_as_patient(federation):
    port = federation.server.port
    running = federation.join("ada", lambda message: make_reply(message, RecordDict()))
    federation.server.stop()
    federation.eventually(lambda: any("trying again" in line for line in running.statuses), 30)
    federation.serve(port)
    federation.eventually(lambda: any("again" in x for x in running.statuses[2:]), 60)
