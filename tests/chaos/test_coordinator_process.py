"""What only a real coordinator process shows: its stderr, its memory, its descriptors."""

import json
import re
import resource
import signal
import socket
import threading
from contextlib import suppress

import grpc
import pytest
from averaging import undisturbed
from running import eventually

from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import FederationStub

pytestmark = pytest.mark.slow
NOISE = re.compile(r"Traceback|CancelledError|Task was destroyed|Exception ignored|E0000")
MIB = 1 << 20


def channel_of(federation, node):
    """A channel with the certificate of an invite."""
    invite = json.loads(federation.invite(node).read_text())
    pem = (invite[name].encode() for name in ("ca", "key", "certificate"))
    credentials = grpc.ssl_channel_credentials(*pem)
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"127.0.0.1:{federation.port}", credentials, options)


def ready(coordinator):
    eventually(lambda: "ready on" in coordinator.said)


@pytest.mark.parametrize("when", ["waiting for clients", "in mid-round"])
def test_ctrl_c_ends_it_with_one_line_and_no_traceback(federation, when):
    """An operator sees that it stopped, and each client tries again in one line."""
    made = federation(2, 3, 60.0 if when == "in mid-round" else 0.0)
    coordinator = made.coordinate()
    ready(coordinator)
    nodes = range(2 if when == "in mid-round" else 1)
    clients = [made.join(node) for node in nodes]
    eventually(lambda: coordinator.said.count(" joined") == len(clients))
    if when == "in mid-round":
        eventually(lambda: "configure_train" in coordinator.said)
    coordinator.signal(signal.SIGINT)
    assert coordinator.process.wait(30) == 130, coordinator.said
    assert "stopped; `coordinator start" in coordinator.said
    assert not NOISE.search(coordinator.said), coordinator.said
    log = (made.directory / "coordinator.log").read_text()
    assert not NOISE.search(log)
    assert "ended without a word" not in log
    for client in clients:
        eventually(lambda client=client: "trying again" in client.said)
    for client in clients:
        assert client.said.count("trying again") == 1, client.said
        assert not NOISE.search(client.said), client.said


def test_ctrl_c_while_calls_of_every_kind_are_open_is_as_quiet(federation):
    """Some wait for their first message, some watch the health, some are refused just now."""
    made, over = federation(1, 1, 0.0), threading.Event()
    coordinator = made.coordinate()
    ready(coordinator)
    channels = [channel_of(made, 0) for _ in range(3)]
    service = "/fedmore.v1.Federation"
    methods = [f"{service}/{name}" for name in ("Connect", "Upload", "Describe", "Held")]

    def silent():
        over.wait(60)
        yield from ()

    calls = [channels[0].stream_stream(method)(silent()) for method in methods]
    calls += [c.unary_stream("/grpc.health.v1.Health/Watch")(b"") for c in channels]
    try:
        assert next(calls[-1]), "the health service has answered"
        coordinator.signal(signal.SIGINT)
        assert coordinator.process.wait(30) == 130, coordinator.said
    finally:
        over.set()
        for channel in channels:
            channel.close()
    assert not NOISE.search(coordinator.said), coordinator.said


def nothings(method):
    """A first message of two MiB that would be 30 times as much in memory."""
    if method == "Connect":
        entry = pb.ClientEvent(reply=pb.Reply(content=pb.Content(records=pb.Records())))
        empty = pb.Records(entries=[pb.Entry()] * (1 << 19)).SerializeToString()
        records = pb.Records.FromString(empty)
        entry.reply.content.records.CopyFrom(records)
        return entry.SerializeToString()
    return b"\x0a\x00" * (MIB - 8)


def test_messages_of_nothing_do_not_grow_it(federation):
    """Sixty at once from one certificate, as once took 7.9 GiB and the process."""
    made = federation(2, 1, 0.0)
    coordinator = made.coordinate()
    ready(coordinator)
    before, most = coordinator.memory, 0
    payloads = {method: nothings(method) for method in ("Connect", "Held", "Describe")}
    channels = [channel_of(made, 0) for _ in range(4)]
    calls = [
        channel.stream_stream(f"/fedmore.v1.Federation/{method}")(iter([payload]))
        for _ in range(5)
        for channel in channels
        for method, payload in payloads.items()
    ]
    ended = []
    for call in calls:
        call.add_done_callback(ended.append)
    while len(ended) < len(calls):
        most = max(most, coordinator.memory)
    assert all(call.code() is not grpc.StatusCode.OK for call in calls)
    for channel in channels:
        channel.close()
    assert coordinator.process.poll() is None
    assert most - before < 200 * MIB, f"{before / MIB:.0f} MiB became {most / MIB:.0f}"
    clients = [made.join(node) for node in range(2)]
    eventually(made.digests, 120)
    assert made.digests() == undisturbed(2, 1)
    assert [client.process.wait(30) for client in clients] == [0, 0]


def test_descriptors_that_run_out_are_said_once_and_come_back(federation):
    """With 96 of them, and 200 silent connections: a round goes on, the log has two lines of it."""
    made = federation(2, 2, 0.0)
    coordinator = made.coordinate((96, 96))
    ready(coordinator)
    silent: list[socket.socket] = []
    with suppress(OSError):
        silent.extend(socket.create_connection(("127.0.0.1", made.port), 2) for _ in range(200))
    log = made.directory / "coordinator.log"
    eventually(lambda: "descriptors are used" in log.read_text())
    clients = [made.join(node) for node in range(2)]
    eventually(made.digests, 120)
    assert made.digests() == undisturbed(2, 2)
    for each in silent:
        each.close()
    assert [client.process.wait(30) for client in clients] == [0, 0]
    text = log.read_text()
    assert text.count("descriptors are used; hanging up") <= 3, text
    assert "Traceback" not in text + coordinator.said


def test_the_soft_limit_of_descriptors_is_raised(federation):
    made = federation(1, 1, 0.0)
    coordinator = made.coordinate((128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    ready(coordinator)
    soft, hard = resource.prlimit(coordinator.process.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65_536) > 128


def test_one_invite_that_floods_does_not_hold_up_a_real_round(federation):
    """Streams as fast as they can be opened, while two clients do their rounds."""
    made, over = federation(3, 2, 0.0), threading.Event()
    coordinator = made.coordinate()
    ready(coordinator)
    stub = FederationStub(channel_of(made, 2))

    def flood():
        while not over.is_set():
            calls = [stub.Connect(iter(over.wait, True)) for _ in range(200)]
            for call in calls:
                call.cancel()

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        clients = [made.join(node) for node in range(2)]
        eventually(lambda: coordinator.said.count(" joined") == 2, 60)
    finally:
        over.set()
        thread.join(30)
    assert [client.process.poll() for client in clients] == [None, None]
    assert "invite n2: refused: Connect" in (made.directory / "coordinator.log").read_text()
