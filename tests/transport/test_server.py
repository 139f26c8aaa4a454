import shutil
import socket
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from flwr.app import RecordDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fedmore.coordinator.config.sections import ServerSection
from fedmore.coordinator.pki.certificates import Role, make_pair, subject_of
from fedmore.coordinator.pki.tls_files import OPERATOR
from fedmore.coordinator.rpc.listen import listen_address, probe
from fedmore.coordinator.rpc.server import SERVICE, serve
from fedmore.coordinator.store.state_keys import OPERATORS
from fedmore.experts.errors import ConfigError, TransportError
from fedmore.protos.wire.blobs import MAX_MESSAGE
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.strategies.events import Left, Refused


def channel(federation):
    expires = datetime.now(UTC) + timedelta(hours=1)
    pair = make_pair(federation.ca, Role.OPERATOR, OPERATOR, expires)
    identity = subject_of(pair.certificate).identity
    federation.registry.set_state(OPERATORS, {OPERATOR: identity})  # as `coordinator start` does
    credentials = grpc.ssl_channel_credentials(
        federation.ca.certificate, pair.key, pair.certificate
    )
    return grpc.secure_channel(f"127.0.0.1:{federation.server.port}", credentials)


def test_health_and_reflection_answer(federation):
    with channel(federation) as open_channel:
        health = health_pb2_grpc.HealthStub(open_channel)
        reply = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(open_channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        [answer] = reflection.ServerReflectionInfo(iter([request]), timeout=5)
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {"fedmore.v1.Federation", "grpc.health.v1.Health"}


def statuses(open_channel):
    """What the health service says, from now on."""
    stub, heard = health_pb2_grpc.HealthStub(open_channel), []

    def listen():
        with suppress(grpc.RpcError):
            replies = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            heard.extend(reply.status for reply in replies)

    threading.Thread(target=listen, daemon=True).start()
    return heard


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("how", ["stop", "finish"])
def test_who_stops_serves_no_more(federation, how):
    with channel(federation) as open_channel:
        heard = statuses(open_channel)
        federation.eventually(lambda: heard == [SERVING])
        getattr(federation.server, how)()
        federation.eventually(lambda: heard == [SERVING, NOT_SERVING])


def test_a_full_disk_is_no_health_and_room_on_it_is(federation, monkeypatch, caplog):
    full = shutil.disk_usage(federation.directory)._replace(free=1000)
    with channel(federation) as open_channel:
        heard = statuses(open_channel)
        federation.eventually(lambda: heard == [SERVING])
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "disk_usage", lambda _: full)
            federation.eventually(lambda: heard == [SERVING, NOT_SERVING])
        federation.eventually(lambda: heard == [SERVING, NOT_SERVING, SERVING])
    assert caplog.text.count("not serving: StoreError: no room") == 1


def test_a_database_that_is_gone_is_no_health(federation):
    with channel(federation) as open_channel:
        heard = statuses(open_channel)
        federation.eventually(lambda: heard == [SERVING])
        database = federation.directory / "registry.db"
        database.rename(federation.directory / "away")
        federation.eventually(lambda: heard == [SERVING, NOT_SERVING])
        (federation.directory / "away").rename(database)


def test_a_message_above_4_mib_is_refused(federation):
    with channel(federation) as open_channel:
        call = open_channel.unary_unary(f"/{SERVICE}/Describe")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\0" * (MAX_MESSAGE + 1), timeout=5)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_port_in_use_is_a_clear_error(federation):
    port = federation.server.port
    running = federation.server
    with pytest.raises(TransportError, match=rf"127\.0\.0\.1:{port}: the port is in use"):
        federation.serve(port)
    federation.server = running


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_a_clear_error(host):
    with pytest.raises(TransportError, match=r"server\.host is not an address of this machine"):
        probe(host, 0)


def test_ipv6_addresses_have_brackets():
    assert listen_address("::1", 5) == "[::1]:5"


def test_without_a_certificate_insecure_must_be_asked_for(federation):
    with pytest.raises(ConfigError, match="insecure"):
        serve(
            federation.registry,
            federation.journal,
            federation.queue,
            federation.config,
            federation.info,
            federation.events.append,
        )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "hub.example.org"])
def test_insecure_is_for_this_machine_alone(federation, host):
    server = replace(federation.config.server, host=host)
    with pytest.raises(ConfigError, match=f"this machine alone, and server.host is {host}"):
        serve(
            federation.registry,
            federation.journal,
            federation.queue,
            replace(federation.config, server=server),
            federation.info,
            federation.events.append,
            insecure=True,
        )


def test_ipv6_and_every_address_work(federation):
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    federation.server.stop()
    server = ServerSection("::", 0, "localhost", heartbeat_s=0.1, heartbeat_timeout_s=10.0)
    federation.config = type(federation.config)(
        federation.config.federation, federation.config.base, server
    )
    federation.server = serve(
        federation.registry,
        federation.journal,
        federation.queue,
        federation.config,
        federation.info,
        federation.events.append,
        tls=federation.tls,
    )
    running = federation.join("ada", lambda message: message)
    federation.server.finish()
    running.end()
    assert running.finished
    assert federation.registry.members()[0].bytes_up > 500


def test_a_listener_that_fails_harms_nobody(federation, caplog):
    federation.events = type("Bad", (list,), {"append": lambda self, event: 1 / 0})()
    federation.server.stop()
    federation.serve()
    running = federation.join("ada", lambda message: message)
    federation.server.finish()
    running.end()
    federation.server.stop()
    assert running.finished
    assert "the listener failed on Joined" in caplog.text


def test_the_end_is_told_and_stop_can_be_called_twice(federation):
    running = federation.join("ada", lambda message: message)
    federation.server.finish()
    running.end()
    federation.server.stop()
    federation.server.stop()
    assert federation.of(Left) == [Left("ada", "finished")]


def test_one_that_stops_blames_nobody(federation, caplog):
    """As where the plan fails: its clients' streams end, and none of them was lost."""
    federation.join("ada", lambda message: make_reply(message, RecordDict()))
    federation.server.stop()
    assert "without a word" not in caplog.text
    assert federation.of(Refused) == []
