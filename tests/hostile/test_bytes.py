"""What the audit adds up to is what crossed the socket, less the framing of TLS and HTTP/2."""

import socket
import threading
from contextlib import suppress

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.egress.guard import AuditOnlyGuard
from fedmore.client.identity.enrolment import describe, enrol
from fedmore.protos.wire.flower_compat import make_reply

HANDSHAKE = 6_000  # bytes of certificates and settings, a connection
CALL = 200  # bytes of headers, a call
MESSAGE = 80  # bytes of frames and of TLS records, a message


class Counter:
    """Forwards TCP connections to `port` and counts what the callers send."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = self.up = 0
        self._lock = threading.Lock()
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [near, far]
                self.connections += 1
                for pair in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if counts:
                    with self._lock:
                        self.up += len(data)
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def counter(federation):
    made = Counter(federation.server.port)
    yield made
    made.close()


@pytest.mark.parametrize("size", [0, 10_000, 5 << 20])
def test_the_audit_is_what_the_socket_saw(federation, run_session, counter, tmp_path, size):
    from dataclasses import replace

    state = tmp_path / "state"
    audit = Audit(state)
    invite = replace(federation.invite("a"), address=f"127.0.0.1:{counter.port}")
    describe(invite, audit=audit)
    identity = enrol(invite, state, kind="expert", target="legal", rank=4, audit=audit)
    payload = bytes(range(256)) * (size // 256)

    def answer(message: Message) -> Message:
        array = Array("uint8", (len(payload),), "fedmore.fp32", payload)
        return make_reply(message, RecordDict({"update": ArrayRecord({"change": array})}))

    thread = run_session(identity, answer, guard=AuditOnlyGuard(audit), audit=audit)
    federation.running.append(thread)
    federation.eventually(federation.queue.nodes)
    grid = federation.grid
    message = Message(RecordDict(), dst_node_id=identity.node_id, message_type="train")
    (reply,) = grid.send_and_receive([message], timeout=30)
    assert reply.content.array_records["update"]["change"].data == payload
    thread.session.stop()
    thread.end()
    audit.close()
    ledger = read_ledger(state)
    messages = sum(entry["messages"] for entry in ledger.totals.values())
    overhead = counter.up - ledger.bytes
    assert set(ledger.totals) >= {"describe", "enrol", "hello", "reply", "leave"}
    assert ledger.bytes >= len(payload)
    assert overhead >= 0
    allowed = HANDSHAKE * counter.connections + (CALL + MESSAGE) * messages + counter.up // 200
    assert overhead <= allowed
