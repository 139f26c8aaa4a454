"""One update of any size, there and back between real programs: how fast, and in how much memory.

A Flower app whose arrays lie in files at both ends, so that what the two programs need beyond what
they needed before is the transport's alone. Run config: `out` (a file of JSON lines), `clients`,
`down` and `up`, in bytes.
"""

import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedmore.experts.errors import RoundError
from fedmore.protos.wire.payloads import digest_of_payload, payload_of, size_of
from fedmore.protos.wire.records import StoredArray
from fedmore.sims.bench.echo import TIMEOUT_S, wait_for
from fedmore.sims.bench.federations import Echo, finish, running, wait_until

WARM_UP = 2 << 20
HEADER = 64

server_app = ServerApp()
client_app = ClientApp()


@dataclass(frozen=True)
class Exchange:
    """Seconds of either way, and the most memory that was needed beside what was in use before."""

    size: int
    down_s: float
    up_s: float
    coordinator_extra: int
    client_extra: int


def exchange(folder: Path, size: int) -> Exchange:
    """Send `size` bytes to a client and get as many back, between programs of their own.

    Raises `RoundError` if one of them fails or gets something else than was sent.
    """
    echo = Echo(folder / "large", 1, clients=1, down=size, up=size, app=__name__)
    with running(echo) as (processes, _):
        wait_until(echo, processes, 1, timeout_s=2 * TIMEOUT_S)
        finish(processes)
    [row] = echo.rows()
    return Exchange(size, row["down_s"], row["up_s"], row["coordinator"], row["client"])


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """A round to wake everybody up, one down, one up; then what either side needed is written."""
    config = context.run_config
    [node] = wait_for(grid, 1)
    _ask(grid, node, WARM_UP, WARM_UP)
    began, own = time.perf_counter(), Peak()
    down = _ask(grid, node, int(config["down"]), 0)
    turned = time.perf_counter()
    up = _ask(grid, node, 0, int(config["up"]))
    row = {
        "down_s": turned - began,
        "up_s": time.perf_counter() - turned,
        "coordinator": own.extra(),
        "client": max(down, up),
    }
    with Path(str(config["out"])).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _ask(grid: Grid, node: int, down: int, up: int) -> int:
    """What the client needed for `down` bytes that came and `up` bytes that went."""
    with TemporaryDirectory(prefix="bench-") as folder:
        content = _content(Path(folder), down, "down")
        content["ask"] = ConfigRecord({"up": up, "digest": _digest(content)})
        message = Message(content, dst_node_id=node, message_type="query")
        [reply] = grid.send_and_receive([message], timeout=TIMEOUT_S)
    if reply.has_error():
        raise RoundError(reply.error.reason)
    said = reply.content["said"]
    if _digest(reply.content) != said["digest"]:
        raise RoundError("what came back is not what was sent")
    again = Message(RecordDict(), dst_node_id=node, message_type="query.extra")
    [extra] = grid.send_and_receive([again], timeout=TIMEOUT_S)
    return int(str(extra.content["said"]["extra"]))


@client_app.query()
def answer(message: Message, _context: Context) -> Message:
    """Look at what came, and send what was asked for."""
    ask = message.content["ask"]
    if _digest(message.content) != ask["digest"]:
        raise RoundError("what came is not what was sent")
    content = _content(Path(_folder().name), int(str(ask["up"])), "up")
    content["said"] = ConfigRecord({"digest": _digest(content)})
    return Message(content, reply_to=message)


@client_app.query("extra")
def extra(message: Message, _context: Context) -> Message:
    """The memory that this process needed since it was last asked."""
    content = RecordDict({"said": MetricRecord({"extra": _CLIENT.extra()})})
    _CLIENT.reset()
    return Message(content, reply_to=message)


@functools.cache
def _folder() -> "TemporaryDirectory[str]":
    """Where the client's answers lie; it goes with the process."""
    return TemporaryDirectory(prefix="bench-")


def _content(folder: Path, size: int, name: str) -> RecordDict:
    """`size` bytes in a file with holes: nothing is written but a header of its own."""
    arrays = ArrayRecord()
    if size:
        path = folder / f"{name}-{size}"
        with path.open("wb") as file:
            file.write(f"{name} {size} {time.time_ns()}".encode().ljust(HEADER))
            file.truncate(size)
        arrays["x"] = StoredArray("uint8", (size,), "bench", path)
    return RecordDict({"data": arrays})


def _digest(content: RecordDict) -> str:
    """Of the one array, or empty; checks that it has as many bytes as it declares."""
    for array in content.array_records["data"].values():
        payload = payload_of(array)
        if size_of(payload) != array.shape[0]:
            raise RoundError("an array has another size than it declares")
        return digest_of_payload(payload)
    return ""


class Peak:
    """The most memory of this process since `reset`, beside what it had then."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: Linux forgets the peak when 5 is written there."""
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _status("VmRSS")

    def extra(self) -> int:
        """In bytes."""
        return _status("VmHWM") - self._before


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(key))


_CLIENT = Peak()
