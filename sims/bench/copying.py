"""The opponent of the throughput bench: a plain copy through a loopback socket to a process."""

import socket
import statistics
import subprocess
import sys
import time

PIECE = 1 << 20
TIMEOUT_S = 60.0


def plain_copy(size: int, repeats: int = 5) -> float:
    """Median MiB/s of sending `size` bytes to a process that reads and discards them."""
    rates = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        port = server.getsockname()[1]
        for _ in range(repeats):
            command = [sys.executable, "-m", "fedmore.sims.bench.copying", str(port), str(size)]
            with subprocess.Popen(command):
                connection, _ = server.accept()
                with connection:
                    rates.append(size / PIECE / _send(connection, size))
    return statistics.median(rates)


def _send(connection: socket.socket, size: int) -> float:
    """Send `size` bytes; returns the seconds until the other end has them all."""
    piece = memoryview(bytes(PIECE))
    began = time.perf_counter()
    for start in range(0, size, PIECE):
        connection.sendall(piece[: min(PIECE, size - start)])
    connection.recv(1)
    return time.perf_counter() - began


def _read(port: int, size: int) -> None:
    buffer = bytearray(PIECE)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while size > 0:
            size -= connection.recv_into(buffer)
        connection.sendall(b"!")


if __name__ == "__main__":
    _read(int(sys.argv[1]), int(sys.argv[2]))
