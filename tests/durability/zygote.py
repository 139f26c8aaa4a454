"""A process that has imported all of a coordinator and forks one for each line of JSON on stdin.

Run by `conftest.Zygote`. Of a forked coordinator every durable write is counted: each transaction
that changed something, each file that came into the store or left it. Before or after the write
number `at` it kills itself, for good: SIGKILL, no handler runs. Each write's name goes to `trace`.
"""

import faulthandler
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

BELOW = ("session", "put", "write_durably", "writing")
"""What every write goes through."""


def prepare(base: str) -> None:
    """Import and load whatever a coordinator needs; no thread may be running afterwards."""
    import torch

    torch.set_num_threads(1)

    from fedmore.coordinator import app, start
    from fedmore.coordinator.tracking import NullTracker
    from fedmore.experts.base import linear_shapes, load_base
    from fedmore.strategies.compression.codec import codec_of, decode, encode

    codec = codec_of("sign1")
    decode(codec, encode(codec, [torch.ones(8, 8)]), [(8, 8)])  # compiled here, not by each child
    load_base(base, "float32", "cpu", "none")
    linear_shapes(base)
    start.MlflowTracker = lambda _: NullTracker()
    assert app
    assert threading.active_count() == 1, threading.enumerate()


class Writes:
    """Counts durable writes, and ends the process at one of them."""

    def __init__(self, at: int, when: str, trace: str) -> None:
        self._at, self._when = at, when
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lock = threading.Lock()
        self._count = 0
        self._changes: dict[object, int] = {}

    def install(self, store: Path) -> None:
        from sqlalchemy.engine.default import DefaultDialect

        commit, replace, unlink = DefaultDialect.do_commit, Path.replace, Path.unlink

        def do_commit(dialect, connection):
            raw = connection.dbapi_connection
            if self._changes.get(raw, 0) == raw.total_changes:
                return commit(dialect, connection)  # it only read
            self._changes[raw] = raw.total_changes
            return self.around("commit", commit, dialect, connection)

        def in_store(path):
            return store in path.parents and not path.name.startswith(".tmp-")

        def replaced(path, target):
            if in_store(Path(target)):
                return self.around("rename", replace, path, target)
            return replace(path, target)

        def unlinked(path, missing_ok=False):
            if in_store(path) and path.exists():
                return self.around("delete", unlink, path, missing_ok)
            return unlink(path, missing_ok)

        DefaultDialect.do_commit, Path.replace, Path.unlink = do_commit, replaced, unlinked

    def around(self, kind, write, *arguments):
        with self._lock:
            self._count += 1
            number = self._count
        self.die(number, "before")
        result = write(*arguments)
        os.write(self._trace, f"{kind} {where()}\n".encode())
        self.die(number, "after")
        return result

    def die(self, number, when):
        if (number, when) == (self._at, self._when):
            os.kill(os.getpid(), signal.SIGKILL)


def where() -> str:
    """The functions of ours that led here, the innermost last."""
    ours = [f.name for f in traceback.extract_stack() if "/coordinator/" in f.filename]
    return " > ".join([name for name in ours if name not in BELOW][-2:])


def coordinate(order: dict) -> None:
    """A coordinator's life."""
    from rich.console import Console

    from fedmore.coordinator import start

    directory = Path(order["directory"])
    Writes(order["at"], order["when"], order["trace"]).install(directory / "blobs")
    if order["until"]:
        threading.Thread(target=until, args=(Path(order["until"]),), daemon=True).start()
    start.start(directory, Console(file=io.StringIO()), start.Settings(patience_s=60))


def until(file: Path) -> None:
    """Pull the plug once the file is there."""
    while not file.exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)


def take_part(order: dict) -> None:
    """A client's life; with `dies`, it is killed in the middle of its first training."""
    from flwr.app import Context, RecordDict

    from fedmore.client.app import handle
    from fedmore.client.invite import read_identity
    from fedmore.client.progress import reporting
    from fedmore.client.session import Session

    identity = read_identity(Path(order["config"]["state"]))
    context = Context(1, identity.node_id, order["config"], RecordDict(), {})

    def die(_report: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work(message):
        if not order["dies"]:
            return handle(message, context)
        with reporting(die):
            return handle(message, context)

    assert Session(identity, patience_s=60).run(work)


def main() -> None:
    prepare(sys.argv[1])
    say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        say(json.dumps(ended(order["pid"]) if "pid" in order else born(order)))


def say(text: str) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def born(order: dict) -> int:
    """The process id of a child that does what `order` says."""
    child = os.fork()
    if child:
        return child
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        faulthandler.dump_traceback_later(25)  # into the log: what hangs
        {"coordinate": coordinate, "take part": take_part}[order["do"]](order)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int | None:
    """The exit code of a child, None while it is alive."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


if __name__ == "__main__":
    main()
