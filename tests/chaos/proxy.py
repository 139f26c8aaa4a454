"""A TCP proxy on loopback whose connections can be disturbed at any time."""

import contextlib
import socket
import threading
import time

PIECE = 1 << 14


class Proxy:
    """Forwards to `target`; every method acts on the connections that there are."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._wait_until = 0.0
        self._truncate = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection."""
        for pair in self._taken():
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    end.shutdown(socket.SHUT_RDWR)

    def truncate(self) -> None:
        """Deliver half of the next piece, and end its connection."""
        self._truncate = True

    def half_close(self) -> None:
        """No more comes from the clients, and what the coordinator says still arrives."""
        with self._lock:
            pairs = list(self._pairs)
        for _, far in pairs:
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_WR)

    def delay(self, seconds: float) -> None:
        """Nothing passes for some seconds; then all of it does."""
        self._wait_until = time.monotonic() + seconds

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        self.cut()

    def _taken(self) -> list[tuple[socket.socket, socket.socket]]:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        return pairs

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 5)
                far.settimeout(None)
            except OSError:  # the coordinator is not there
                near.close()
                continue
            with self._lock:
                self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE):
                while (left := self._wait_until - time.monotonic()) > 0:
                    time.sleep(left)
                if self._truncate:
                    self._truncate = False
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
