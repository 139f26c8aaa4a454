"""A coordinator at a new address: its members find it by the address given once."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fedmore.client.identity.enrolment import Identity, Invite, enrol
from fedmore.experts.errors import ConfigError
from fedmore.protos.wire.flower_compat import make_reply


def come(federation: Any, invite: Invite, address: str = "") -> Identity:
    state = federation.directory / invite.name
    return enrol(invite, state, kind="expert", target="legal", rank=4, address=address)


def test_an_address_given_once_is_remembered(federation: Any) -> None:
    invite = federation.invite("ada")
    come(federation, invite)
    old, _ = federation.server.port, federation.server.stop()
    new = federation.serve().port
    assert new != old
    assert come(federation, invite).address == f"127.0.0.1:{old}"
    assert come(federation, invite, f"127.0.0.1:{new}").address == f"127.0.0.1:{new}"
    again = come(federation, invite)
    assert again.address == f"127.0.0.1:{new}"
    running = federation.start(again, lambda task: make_reply(task, task.content))
    federation.eventually(federation.queue.nodes)
    federation.server.finish()
    running.end()
    assert running.finished


def test_an_invite_with_another_address_counts_more_than_what_is_remembered(
    federation: Any,
) -> None:
    invite = federation.invite("ada")
    come(federation, invite, f"localhost:{federation.server.port}")
    assert come(federation, invite).address.startswith("localhost:")
    assert come(federation, replace(invite, address="hub:9")).address == "hub:9"


def test_a_new_member_may_need_the_new_address_too(federation: Any) -> None:
    good, invite = federation.server.port, replace(federation.invite("ada"), address="127.0.0.1:1")
    assert come(federation, invite, f"127.0.0.1:{good}").address == f"127.0.0.1:{good}"


def test_an_identity_from_before_goes_by_its_invite(federation: Any) -> None:
    invite = federation.invite("ada")
    file = come(federation, invite).state / "identity.json"
    table = json.loads(file.read_text(encoding="utf-8"))
    del table["invited"]
    file.write_text(json.dumps(table | {"address": "hub:9"}), encoding="utf-8")
    assert come(federation, invite).address == invite.address


@pytest.mark.parametrize(
    "address",
    ["hub", "hub:", "hub:0", "hub:70000", "http://hub:1", "fd00::2:1", "[hub]:1", ":1", "a b:1"],
)  # fmt: skip
def test_an_address_that_cannot_be_called_is_refused(federation: Any, address: str) -> None:
    with pytest.raises(ConfigError, match="--address: "):
        come(federation, federation.invite("ada"), address)
