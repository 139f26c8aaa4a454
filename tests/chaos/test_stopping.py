"""However a coordinator is stopped, and whatever goes on: a line, an exit code, no traceback."""

import queue
import re
import signal
import threading
import time

import pytest
from running import eventually

from fedmore.client.identity.enrolment import enrol, read_invite
from fedmore.client.transport.channel import OPTIONS
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import FederationStub

grpc = pytest.importorskip("grpc")
pytestmark = pytest.mark.slow
NOISE = re.compile(
    r"Traceback|Cancelled|Task was destroyed|Exception ignored|never retrieved|never awaited|E0000"
    r"|^\w*(Error|Interrupt)\b",
    re.MULTILINE,
)
PEERS, UPLOADING = 12, 6
INT, TERM = signal.SIGINT, signal.SIGTERM
WAYS = {
    "Ctrl-C": ([INT], 130),
    "SIGTERM": ([TERM], 143),
    "Ctrl-C twice": ([INT, INT], 130),
    "Ctrl-C held down": ([INT] * 8, 130),
    "Ctrl-C, then SIGTERM": ([INT, TERM, TERM], None),
    "SIGTERM twice": ([TERM, TERM], 143),
}


class Peer:
    """A member with a stream; once it has a task it uploads for ever, a few kilobytes at a time."""

    def __init__(self, made, number, over):
        invite = read_invite(made.invite(number))
        state = made.folder / f"peer-{number}"
        identity = enrol(invite, state, kind="app", target="", rank=0)
        keys = (identity.keys.ca, identity.keys.key, identity.keys.certificate)
        credentials = grpc.ssl_channel_credentials(*(text.encode() for text in keys))
        self.channel = grpc.secure_channel(identity.address, credentials, OPTIONS)
        self.stub, self.over = FederationStub(self.channel), over
        self.sent, self.said = 0, queue.SimpleQueue()
        self.said.put(pb.ClientEvent(hello=pb.Hello(session=f"s{number}")))
        self.asked = threading.Event()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        try:
            for event in self.stub.Connect(iter(self.said.get, None)):
                if event.WhichOneof("event") == "task":
                    self.asked.set()
        except (grpc.RpcError, ValueError):
            return

    def upload(self):
        blob = pb.Blob(digest=f"{self.sent:064x}", size=64 << 20)

        def parts():
            yield pb.UploadRequest(start=pb.UploadStart(blob=blob))
            while not self.over.wait(0.02):
                self.sent += 1
                yield pb.UploadRequest(chunk=bytes(4096))

        self.call = self.stub.Upload.future(parts())


@pytest.fixture
def crowd():
    """Call it with a federation: its members, streaming and uploading."""
    over, peers = threading.Event(), []

    def gather(made):
        peers.extend(Peer(made, number, over) for number in range(PEERS))
        for peer in peers:
            assert peer.asked.wait(60), "it was asked nothing"
        for peer in peers[:UPLOADING]:
            peer.upload()
        eventually(lambda: all(peer.sent > 5 for peer in peers[:UPLOADING]))

    yield gather
    over.set()
    for peer in peers:
        peer.said.put(None)
        peer.channel.close()


@pytest.mark.parametrize("way", WAYS)
def test_streams_and_uploads_in_flight_end_without_a_word(federation, crowd, way):
    numbers, code = WAYS[way]
    made = federation(PEERS, 3, 0.0)
    coordinator = made.coordinate()
    eventually(lambda: "ready on" in coordinator.said)
    crowd(made)
    for number in numbers:
        coordinator.signal(number)
        time.sleep(0.05)  # or the kernel would make one of them
    assert coordinator.process.wait(60) == (code or coordinator.process.returncode)
    assert coordinator.process.returncode in (130, 143)
    log = (made.directory / "coordinator.log").read_text()
    assert coordinator.said.count("stopped; `coordinator start") == 1, coordinator.said
    assert not NOISE.search(coordinator.said), coordinator.said
    assert not NOISE.search(log), log


@pytest.mark.parametrize("way", ["Ctrl-C", "SIGTERM", "Ctrl-C held down"])
def test_a_client_that_is_stopped_in_its_work_ends_as_quietly(federation, way):
    numbers, code = WAYS[way]
    made = federation(2, 1, 60.0)
    coordinator = made.coordinate()
    eventually(lambda: "ready on" in coordinator.said)
    client, _ = made.join(0), made.join(1)
    eventually(lambda: "configure_train" in coordinator.said)
    for number in numbers:
        client.signal(number)
        time.sleep(0.05)
    assert client.process.wait(60) == code, client.said
    assert client.said.count("stopped; the same `client join`") == 1, client.said
    assert not NOISE.search(client.said), client.said
