"""Certificates renewed before they expire, also while the client stays connected."""

import datetime as dt
from dataclasses import replace

import pytest
from flwr.app import Message, RecordDict

from fedmore.client.identity import renewal
from fedmore.client.identity.enrolment import read_identity
from fedmore.client.identity.keys import expiry
from fedmore.client.identity.renewal import Renewal, is_due
from fedmore.client.session.runner import Session
from fedmore.coordinator.pki import certificates
from fedmore.coordinator.pki.certificates import Role, make_ca, make_pair
from fedmore.coordinator.rpc import auth as gates
from fedmore.experts.errors import TransportError
from fedmore.protos.wire.flower_compat import make_reply

NOW = dt.datetime.now(dt.UTC)


def echo(message):
    return make_reply(message, RecordDict())


def enrolled(federation, monkeypatch, days):
    """A member whose certificate began long ago and is good for `days` more."""
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "SKEW", dt.timedelta(days=90 - days))
        patch.setattr(certificates, "CLIENT_DAYS", days)
        return federation.enrol("ada")


def certificate_of(federation):
    return read_identity(federation.directory / "ada").certificate


@pytest.mark.parametrize(("passed", "due"), [(0, False), (59, False), (61, True), (100, True)])
def test_it_is_due_when_a_third_is_left(passed, due):
    pair = make_pair(make_ca("fed"), Role.CLIENT, "ada", NOW + dt.timedelta(days=90))
    assert is_due(pair.certificate.decode(), NOW + dt.timedelta(days=passed)) is due


def test_a_certificate_with_time_left_stays(federation, monkeypatch):
    identity = enrolled(federation, monkeypatch, 45)
    running = federation.start(identity, echo)
    federation.server.finish()
    running.end()
    assert certificate_of(federation) == identity.certificate


def test_a_certificate_that_is_due_is_renewed_and_used(federation, monkeypatch):
    identity = enrolled(federation, monkeypatch, 20)
    running = federation.start(identity, echo)
    federation.eventually(lambda: "the certificate was renewed" in running.statuses)
    fresh = read_identity(federation.directory / "ada")
    assert fresh.certificate != identity.certificate
    assert replace(fresh, certificate=identity.certificate) == identity
    assert expiry(fresh.certificate)[1] > NOW + dt.timedelta(days=89)
    [member] = federation.registry.members()
    assert member.certificate_expires == expiry(fresh.certificate)[1]
    [node] = federation.grid.get_node_ids()
    [reply] = federation.grid.send_and_receive([Message(RecordDict(), node, "train")], timeout=20)
    assert reply.has_content()
    federation.server.finish()
    running.end()
    assert running.finished
    back = federation.start(read_identity(federation.directory / "ada"), echo)
    back.end()
    assert back.finished


def test_it_is_looked_at_again_while_connected(federation, monkeypatch):
    """Weeks on one stream: the clock moves on, and the next look renews."""
    identity, said = enrolled(federation, monkeypatch, 20), []
    past, shown = [], []

    def caller(context, real=gates.caller):
        shown.append(real(context).expires)
        return real(context)

    monkeypatch.setattr(gates, "caller", caller)
    monkeypatch.setattr(renewal, "is_due", lambda _: len(past) > 2 or past.append(1))
    with identity.link() as link, Renewal(identity, link, said.append, every_s=0.01):
        assert link.describe() == federation.info
        assert shown[0] == expiry(identity.certificate)[1]
        federation.eventually(lambda: said)
        assert link.describe() == federation.info
        assert shown[-1] == expiry(certificate_of(federation))[1] > shown[0]


def test_a_coordinator_that_is_away_is_asked_at_the_next_look(federation, monkeypatch, caplog):
    identity, said = enrolled(federation, monkeypatch, 20), []
    port = federation.server.port
    federation.server.stop()
    with identity.link() as link, Renewal(identity, link, said.append, every_s=0.05):
        federation.eventually(lambda: "could not be renewed" in caplog.text)
        assert certificate_of(federation) == identity.certificate
        federation.serve(port)
        federation.eventually(lambda: said == ["the certificate was renewed"])
    assert certificate_of(federation) != identity.certificate


def test_a_session_that_ends_leaves_no_thread(federation):
    import threading

    identity = federation.enrol("ada")
    federation.server.finish()
    assert Session(identity).run(echo) is True
    federation.eventually(lambda: "renewal" not in {t.name for t in threading.enumerate()})
    federation.server.stop()
    with pytest.raises(TransportError):
        Session(identity, patience_s=0.1).run(echo)
    federation.eventually(lambda: "renewal" not in {t.name for t in threading.enumerate()})
