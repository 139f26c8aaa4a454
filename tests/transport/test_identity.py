"""Mutual TLS: which certificate opens which call, and until when."""

import datetime as dt
import threading
from dataclasses import replace

import grpc
import pytest
from flwr.app import Message, RecordDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fedmore.client.identity.enrolment import describe, enrol
from fedmore.client.identity.keys import own_key, secret_digest, signing_request
from fedmore.client.session.runner import Session
from fedmore.client.transport.channel import Link
from fedmore.client.transport.credentials import Keys, invite_keys
from fedmore.coordinator.pki.certificates import Role, make_ca, make_pair, sign_client, subject_of
from fedmore.coordinator.store.state_keys import OPERATORS
from fedmore.experts.errors import MembershipError, TokenError, TransportError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.strategies.events import Left, Refused, Withdrawn

ENROL = {"kind": "expert", "target": "legal", "rank": 4}
DAY = dt.timedelta(days=1)


def tomorrow():
    return dt.datetime.now(dt.UTC) + DAY


def keys_of(ca, pair):
    return Keys(ca.certificate.decode(), pair.certificate.decode(), pair.key.decode())


def address(federation):
    return f"127.0.0.1:{federation.server.port}"


def link_as(federation, role, name, expires=None, ca=None):
    """A link with a certificate of our making, by the federation's authority or another."""
    pair = make_pair(ca or federation.ca, role, name, expires or tomorrow())
    if (role, name) == (Role.OPERATOR, "operator"):  # as `coordinator start` does
        identity = subject_of(pair.certificate).identity
        federation.registry.set_state(OPERATORS, {name: identity})
    return Link(address(federation), keys_of(federation.ca, pair))


def listen(link):
    return list(link.connect(iter([pb.ClientEvent(hello=pb.Hello(session="s"))])))


def echo(message):
    return make_reply(message, RecordDict())


def ask(federation):
    """A task that nobody answers in time for the test; its reply, once it has failed."""
    grid = federation.grid
    [node] = grid.get_node_ids()
    [task_id] = grid.push_messages([Message(RecordDict(), node, "train")])
    return lambda: next(iter(grid.pull_messages([task_id])), None)


def test_without_a_certificate_there_is_no_connection(federation):
    trust = grpc.ssl_channel_credentials(federation.ca.certificate)
    with grpc.secure_channel(address(federation), trust) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/fedmore.v1.Federation/Describe")(b"", timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(address(federation)) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/fedmore.v1.Federation/Describe")(b"", timeout=5)


def test_a_certificate_of_another_federation_opens_nothing(federation):
    evil = make_ca("evil")
    with link_as(federation, Role.CLIENT, "ada", ca=evil) as link, pytest.raises(TransportError):
        link.describe()


def test_an_expired_certificate_opens_nothing(federation):
    expired = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=5)
    with link_as(federation, Role.INVITE, "ada", expired) as link, pytest.raises(TransportError):
        link.describe()


def test_a_client_knows_by_itself_that_its_certificate_expired(federation, monkeypatch):
    from fedmore.coordinator.pki import certificates

    monkeypatch.setattr(certificates, "_in", lambda days: dt.datetime.now(dt.UTC))
    identity = federation.enrol("ada")
    with pytest.raises(TokenError, match=r"'ada' expired .* while this client was away"):
        Session(identity).run(echo)


def test_a_connection_does_not_outlive_its_certificate(federation):
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
    with link_as(federation, Role.INVITE, "ada", soon) as link:
        assert link.describe() == federation.info

        def expired():
            try:
                link.describe()
            except TokenError as error:
                return "expired" in str(error)
            except TransportError:  # an invite is to call slowly
                return False
            return False

        federation.eventually(expired)


def test_an_invites_certificate_describes_and_enrols_only(federation, caplog):
    invite = federation.invite("ada")
    assert describe(invite) == federation.info
    with Link(invite.address, invite_keys(invite)) as link:
        for call in (
            lambda: listen(link),
            lambda: link.renew(signing_request(invite.key, "ada")),
            lambda: link.withdraw("", ""),
            lambda: link.upload("ab" * 32, b"x"),
            lambda: list(link.download("ab" * 32, 0)),
        ):
            with pytest.raises(MembershipError, match="invite 'ada' is not a member's"):
                call()
    for call in ("Connect", "Renew", "Withdraw", "Held", "Download"):
        assert f"invite ada: refused: {call}: MembershipError" in caplog.text
    assert {event.name for event in federation.of(Refused)} == {"invite ada"}


@pytest.mark.parametrize("role", [Role.CLIENT, Role.OPERATOR])
def test_no_other_certificate_enrols(federation, role, tmp_path):
    """Not even under the name that it has, with that name's token."""
    bob = federation.invite("bob")
    asked = signing_request(own_key(tmp_path / "key"), "bob")
    request = pb.EnrolRequest(**ENROL, name="bob", token=bob.token, identity=asked)
    with (
        link_as(federation, role, "bob") as link,
        pytest.raises(MembershipError, match=f"{role} 'bob' does not let 'bob' in"),
    ):
        link.enrol(request)
    assert federation.registry.members() == []


def test_a_good_certificate_that_nobody_enrolled_is_unknown(federation, tmp_path, caplog):
    """Signed by the authority, and so past TLS, but not in the registry."""
    key = own_key(tmp_path / "eve")
    certificate, _ = sign_client(federation.ca, signing_request(key, "ada"), "ada")
    federation.enrol("ada")
    keys = Keys(federation.ca.certificate.decode(), certificate, key)
    with Link(address(federation), keys) as link:
        for call in (lambda: listen(link), link.describe, lambda: link.withdraw("", "")):
            with pytest.raises(TokenError, match="not known here"):
                call()
    assert "ada: refused: Connect: TokenError" in caplog.text


def test_a_secret_in_the_metadata_is_nothing_where_there_is_tls(federation):
    federation.registry.enrol(
        federation.registry.invite("ada"), "ada", "expert", "legal", 4, secret_digest("ada's")
    )
    invite = federation.invite("bob")
    with (
        Link(invite.address, invite_keys(invite), secret="ada's") as link,
        pytest.raises(MembershipError, match="not a member's"),
    ):
        listen(link)


def test_health_is_for_all_and_reflection_for_operators(federation):
    def names(link):
        stub = reflection_pb2_grpc.ServerReflectionStub(link._channels[0])
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        [answer] = stub.ServerReflectionInfo(iter([request]), timeout=5)
        return {service.name for service in answer.list_services_response.service}

    for role, name in ((Role.INVITE, "ada"), (Role.CLIENT, "ada"), (Role.OPERATOR, "eve")):
        with link_as(federation, role, name) as link:
            health = health_pb2_grpc.HealthStub(link._channels[0])
            reply = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                names(link)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with link_as(federation, Role.OPERATOR, "operator") as link:
        assert names(link) >= {"fedmore.v1.Federation", "grpc.health.v1.Health"}


def test_a_member_that_is_revoked_while_connected_is_out_at_once(federation):
    waiting = threading.Event()
    running = federation.join("ada", lambda message: waiting.wait(20) and echo(message))
    result = ask(federation)
    federation.registry.revoke("ada", "key stolen")
    with (
        running.identity.link() as link,
        pytest.raises(MembershipError, match=r"revoked .*key stolen"),
    ):
        link.upload("ab" * 32, b"x")
    running.end()
    waiting.set()
    assert isinstance(running.error, MembershipError)
    assert "key stolen" in str(running.error)
    assert "ada left: revoked by the operator" in federation.eventually(result).error.reason
    assert federation.queue.nodes() == []
    assert [event.name for event in federation.of(Left)] == ["ada"]


def test_a_member_that_is_revoked_while_away_stays_out(federation, caplog):
    identity = federation.enrol("ada")
    federation.registry.revoke("ada")
    with pytest.raises(MembershipError, match="revoked by the operator"):
        Session(identity).run(echo)
    assert "ada: refused: Connect: MembershipError: 'ada' was revoked" in caplog.text
    with identity.link() as link, pytest.raises(MembershipError, match="revoked"):
        link.describe()
    invite = replace(federation.invite("bob"), name="ada")
    with pytest.raises(MembershipError):
        enrol(invite, federation.directory / "again", **ENROL)


def test_a_member_that_withdraws_is_let_go_and_may_only_look(federation):
    running = federation.join("ada", echo)
    identity, token = running.identity, federation.registry.invite_again("ada")
    with identity.link() as link:
        for wrong in ("", "x", secret_digest(token)):
            with pytest.raises(TokenError, match="needs the invite that this client joined with"):
                link.withdraw("stolen", wrong)
        assert federation.registry.withdrawn() == set()
        link.withdraw("a client asked\x1b\n us to" + " " * 10**4, token)
        assert federation.queue.nodes() == []
        running.end()
        assert isinstance(running.error, MembershipError)
        assert "withdrawn by its owner" in str(running.error)
        for call in (lambda: link.withdraw("", ""), lambda: listen(link)):
            with pytest.raises(MembershipError, match="a client asked us to"):
                call()
        assert link.describe() == federation.info
    assert federation.of(Withdrawn) == [Withdrawn("ada", "a client asked us to")]
    assert federation.registry.withdrawn() == {"ada"}
    assert federation.queue.nodes() == []


def test_renewal_is_for_the_same_key(federation, tmp_path):
    identity = federation.enrol("ada")
    with identity.link() as link:
        fresh = link.renew(signing_request(identity.key, "not ada"))
        with pytest.raises(WireError, match="for the key that it was made for"):
            link.renew(signing_request(own_key(tmp_path / "other"), "ada"))
    before, after = (subject_of(c.encode()) for c in (identity.certificate, fresh))
    assert fresh != identity.certificate
    assert (after.name, after.identity) == ("ada", before.identity)
    assert after.expires >= before.expires
    assert federation.registry.members()[0].certificate_expires == after.expires
    for certificate in (identity.certificate, fresh):  # an answer that is lost does no harm
        with replace(identity, certificate=certificate).link() as link:
            assert link.describe() == federation.info
