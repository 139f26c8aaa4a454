"""From an invite to membership: what is checked, what is kept, what may be done again."""

from dataclasses import replace

import pytest
from flwr.app import RecordDict

from fedmore.client.identity.enrolment import FILE, describe, enrol, read_identity
from fedmore.client.identity.keys import own_key, secret_digest, signing_request
from fedmore.client.transport.channel import Link
from fedmore.client.transport.credentials import Keys
from fedmore.coordinator.pki.certificates import make_ca, make_server_certificate
from fedmore.coordinator.pki.tls_files import Tls
from fedmore.coordinator.rpc import enrolment
from fedmore.experts.errors import (
    BaseError,
    ConfigError,
    MembershipError,
    RankError,
    TokenError,
    TransportError,
    WireError,
)
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.flower_compat import make_reply

ENROL = {"kind": "expert", "target": "legal", "rank": 4}


def test_the_same_invite_resumes(federation):
    invite, state = federation.invite("ada"), federation.directory / "state"
    first = enrol(invite, state, **ENROL)
    assert first.info == federation.info
    assert (state / FILE).stat().st_mode & 0o777 == 0o600
    assert enrol(invite, state, **ENROL) == first == read_identity(state)
    assert enrol(replace(invite, expires="2020-01-01T00:00:00+00:00"), state, **ENROL) == first
    with pytest.raises(ConfigError, match="rank 4"):
        enrol(invite, state, **ENROL | {"rank": 8})


def test_an_invite_is_good_once(federation):
    invite = federation.invite("ada")
    enrol(invite, federation.directory / "one", **ENROL)
    with pytest.raises(TokenError):
        enrol(invite, federation.directory / "two", **ENROL)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"kind": "poet"}, ConfigError, "not 'poet'"),
        ({"target": "botany"}, ConfigError, "there are: legal"),
        ({"kind": "adapter"}, ConfigError, "there are: gl"),
        ({"rank": 0}, RankError, "from 1 to"),
        ({"fingerprint": "0" * 64}, BaseError, "same weights"),
    ],
)
def test_a_refused_enrolment_does_not_use_up_the_token(federation, change, error, says):
    invite, state = federation.invite("ada"), federation.directory / "state"
    with pytest.raises(error, match=says):
        enrol(invite, state, **ENROL | change)
    assert read_identity(state) is None
    assert enrol(invite, state, **ENROL).name == "ada"


def test_wrong_and_expired_tokens_are_refused(federation):
    invite, state = federation.invite("ada"), federation.directory / "state"
    with pytest.raises(TokenError):
        enrol(replace(invite, token="wrong"), state, **ENROL)
    with pytest.raises(TokenError, match="expired"):
        enrol(replace(invite, expires="2020-01-01T00:00:00+00:00"), state, **ENROL)


def test_a_damaged_identity_is_an_error(tmp_path):
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ConfigError, match="restore or remove"):
        read_identity(tmp_path)


def test_describe_needs_no_token(federation):
    assert describe(federation.invite("ada")) == federation.info


def test_another_authority_is_not_trusted(federation):
    invite = replace(federation.invite("ada"), ca=make_ca("evil").certificate.decode())
    with pytest.raises(TransportError, match="not this federation's"):
        describe(invite)


def test_nothing_is_signed_for_a_token_that_is_not_good(federation, monkeypatch):
    signed = []
    monkeypatch.setattr(enrolment, "sign_client", lambda *a: signed.append(a))
    invite, state = federation.invite("ada"), federation.directory / "state"
    with pytest.raises(TokenError, match="not known here"):
        enrol(replace(invite, token="wrong"), state, **ENROL)
    assert signed == []


def test_a_name_that_the_certificate_does_not_have_is_not_trusted(federation, authority):
    federation.server.stop()
    federation.tls = Tls(authority.ca, make_server_certificate(authority.ca, ["elsewhere.example"]))
    federation.serve()
    invite = replace(federation.invite("ada"), address=f"127.0.0.2:{federation.server.port}")
    with pytest.raises(TransportError):
        describe(invite)


def answer(message):
    return make_reply(message, RecordDict())


def test_no_encryption_only_where_both_ends_ask_for_it(federation):
    secure = federation.invite("bob")
    federation.server.stop()
    federation.tls = None
    federation.serve()
    invite = federation.invite("ada")
    with pytest.raises(ConfigError, match="no certificates"):
        describe(invite)
    with pytest.raises(ConfigError, match="leave --insecure out"):
        describe(secure, insecure=True)
    with pytest.raises(ConfigError, match=r"this machine alone, and not for hub\.example\.org"):
        describe(replace(invite, address="hub.example.org:8470"), insecure=True)
    running = federation.join("ada", answer)
    secret = running.identity.key
    assert federation.registry.authenticate(secret_digest(secret)).name == "ada"
    assert (federation.directory / "ada" / "secret").stat().st_mode & 0o777 == 0o600
    federation.server.finish()
    running.end()
    assert running.finished


def test_the_key_lies_in_its_own_file_and_nowhere_else(federation, caplog):
    caplog.set_level("DEBUG")
    invite, state = federation.invite("ada"), federation.directory / "state"
    identity = enrol(invite, state, **ENROL)
    shown = repr(identity) + repr(invite) + repr(identity.keys) + caplog.text
    shown += (state / FILE).read_text()
    shown += (federation.directory / "registry.db").read_bytes().decode("latin-1")
    shown += (federation.directory / "registry.db-wal").read_bytes().decode("latin-1")
    for secret in (invite.token, *invite.key.splitlines()[1:3], *identity.key.splitlines()[1:3]):
        assert len(secret) > 30
        assert secret not in shown
    assert (state / "key.pem").read_text() == identity.key


def test_a_lost_answer_is_asked_for_again(federation):
    """The same token and key once more, from a client that never heard the answer."""
    invite, state = federation.invite("ada"), federation.directory / "state"
    first = enrol(invite, state, **ENROL)
    (state / FILE).unlink()
    again = enrol(invite, state, **ENROL)
    assert (again.node_id, again.key) == (first.node_id, first.key)
    assert len(federation.registry.members()) == 1
    running = federation.start(again, answer)
    assert len(federation.queue.nodes()) == 1
    running.session.stop()
    running.end()


def test_a_lost_answer_is_not_another_choice(federation):
    invite, state = federation.invite("ada"), federation.directory / "state"
    enrol(invite, state, **ENROL)
    (state / FILE).unlink()
    with pytest.raises(TokenError, match="has been used"):
        enrol(invite, state, **ENROL | {"rank": 8})
    assert federation.registry.members()[0].rank == 4


def request(invite, identity, **changes):
    fields = ENROL | {"token": invite.token, "name": invite.name, "identity": identity} | changes
    with Link(invite.address, Keys(invite.ca, invite.certificate, invite.key)) as link:
        return link.enrol(pb.EnrolRequest(**fields))


def test_the_key_of_the_invite_cannot_become_the_clients(federation):
    invite = federation.invite("ada")
    with pytest.raises(TokenError, match="a key of your own"):
        request(invite, signing_request(invite.key, "ada"))
    assert [m.name for m in federation.registry.invited()] == ["ada"]


def test_an_invite_lets_in_under_its_own_name_only(federation, tmp_path):
    ada, bob = federation.invite("ada"), federation.invite("bob")
    asked = signing_request(own_key(tmp_path / "eve"), "bob")
    with pytest.raises(MembershipError, match="invite 'ada' does not let 'bob' in"):
        request(ada, asked, name="bob", token=bob.token)


def test_a_key_is_one_members_alone(federation, tmp_path):
    asked = signing_request(own_key(tmp_path / "eve"), "ada")
    request(federation.invite("ada"), asked)
    with pytest.raises(TokenError, match="another member's"):
        request(federation.invite("bob"), asked)


@pytest.mark.parametrize("identity", ["", "ab" * 32, "-----BEGIN CERTIFICATE REQUEST-----"])
def test_with_tls_an_identity_is_a_signing_request(federation, identity):
    with pytest.raises(WireError, match="not a certificate signing request"):
        request(federation.invite("ada"), identity)
    assert federation.registry.members() == []
