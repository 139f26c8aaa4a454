"""The Operator service: who may call it, and what its calls do."""

import datetime as dt
import json
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedmore.client.identity.enrolment import enrol
from fedmore.coordinator.folder.operator_access import Access
from fedmore.coordinator.pki.certificates import Role, make_ca, make_pair, subject_of
from fedmore.coordinator.rpc.operator_client import Remote
from fedmore.coordinator.store.state_keys import OPERATORS
from fedmore.experts.errors import (
    ConfigError,
    MembershipError,
    RegistryError,
    TokenError,
    TransportError,
)
from fedmore.protos.enrolment.invite import parse_invite

ENROL = {"kind": "expert", "target": "legal", "rank": 4}


@dataclass
class Office:
    """What a coordinator would do."""

    federation: Any
    stopped: threading.Event = field(default_factory=threading.Event)
    reason: str = ""

    def status(self) -> dict[str, Any]:
        return {"phase": "waiting", "members": [m.name for m in self.federation.registry.members()]}

    def invite(self, name: str, expires_s: float) -> str:
        if not 0 < expires_s < 1e6:
            raise ConfigError("hours")
        return self.federation.invite(name).text()

    def stop(self, reason: str) -> None:
        self.reason = reason
        self.stopped.set()


@pytest.fixture
def office(federation):
    federation.server.stop()
    federation.office = Office(federation)
    federation.serve()
    return federation.office


def remote(federation, role=Role.OPERATOR, name="operator", pair=None, ca=None):
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    pair = pair or make_pair(ca or federation.ca, role, name, expires)
    keys = federation.ca.certificate, pair.certificate, pair.key
    address = f"127.0.0.1:{federation.server.port}"
    if name == "operator" and role is Role.OPERATOR:  # as `coordinator start` does
        identity = subject_of(pair.certificate).identity
        federation.registry.set_state(OPERATORS, {"operator": identity})
    return Remote(Access("test", name, address, *(pem.decode() for pem in keys)))


def calls(link):
    return (
        link.status,
        lambda: link.invite("mallory", 60),
        lambda: link.revoke("ada", ""),
        lambda: link.stop(""),
    )


def test_an_operator_sees_invites_revokes_and_stops(federation, office):
    with remote(federation) as link:
        invite = parse_invite(link.invite("ada", 60), "there")
        enrol(invite, federation.directory / "ada", **ENROL)
        assert link.status() == {"phase": "waiting", "members": ["ada"]}
        link.revoke("ada", "enough")
        assert federation.registry.members()[0].revoked_reason == "enough"
        link.check_health()
        link.stop("the evening")
        assert office.stopped.wait(5)
        assert office.reason == "the evening"
    told = [(e.name, e.payload) for e in federation.registry.events() if e.kind == "operator"]
    assert told == [
        ("operator", {"call": "invite", "name": "ada"}),
        ("operator", {"call": "revoke", "name": "ada", "reason": "enough"}),
        ("operator", {"call": "stop", "reason": "the evening"}),
    ]
    assert json.dumps(told).count(invite.token) == 0


@pytest.mark.parametrize("role", [Role.INVITE, Role.CLIENT, Role.SERVER])
def test_no_other_certificate_is_an_operators(federation, office, role):
    federation.enrol("ada")
    with remote(federation, role, "operator") as link:
        for call in calls(link):
            with pytest.raises((MembershipError, TransportError)) as caught:
                call()
            if role is not Role.SERVER:  # which TLS itself refuses as a client's
                assert "needs an operator's" in str(caught.value)
    assert not office.stopped.is_set()
    assert federation.registry.members()[0].barred == ""
    assert federation.registry.invited() == []


def test_the_operator_of_another_federation_is_nobody(federation, office):
    with remote(federation, ca=make_ca("evil")) as link:
        for call in (*calls(link), link.check_health):
            with pytest.raises(TransportError):
                call()


def test_an_access_file_is_good_as_long_as_it_is_listed(federation, office):
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    first, second = (make_pair(federation.ca, Role.OPERATOR, "ops", expires) for _ in range(2))
    for listed, pair, good in (
        (None, first, False), (first, first, True), (second, first, False), (second, second, True),
    ):  # fmt: skip
        identity = {"ops": subject_of(listed.certificate).identity} if listed else {}
        federation.registry.set_state(OPERATORS, identity)
        with remote(federation, name="ops", pair=pair) as link:
            if good:
                assert link.status()["phase"] == "waiting"
            else:
                with pytest.raises(MembershipError, match="'ops' may not call this"):
                    link.status()


def test_an_access_that_has_expired_says_so(federation):
    past = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    pair = make_pair(federation.ca, Role.OPERATOR, "ops", past)
    with pytest.raises(TokenError, match=r"operator 'ops' expired .*coordinator operator"):
        remote(federation, name="ops", pair=pair)


def test_revoking_ends_the_stream_before_the_call_returns(federation, office):
    running = federation.join("ada", lambda message: message)
    with remote(federation) as link:
        link.revoke("ada", "gone")
        assert federation.queue.nodes() == []
        with pytest.raises(RegistryError, match="no member is named 'nobody'"):
            link.revoke("nobody", "")
    running.end()
    assert isinstance(running.error, MembershipError)


def test_a_bad_wish_is_the_operators_error(federation, office):
    with remote(federation) as link:
        for hours in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ConfigError):
                link.invite("ada", hours)


def test_without_tls_there_are_no_operators(federation, office):
    federation.server.stop()
    federation.tls = None
    federation.serve()
    with remote(federation) as link, pytest.raises(TransportError):
        link.status()
