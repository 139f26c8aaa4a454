"""A process that has imported all of a coordinator and forks one for each line of JSON on stdin.

`Zygote` is its other end. Of a forked coordinator every durable write has a name, what it is and
which functions led to it: each transaction that changed something, each file that came into the
store or left it. `before` or `after` the write of that name and number it kills itself, for good:
SIGKILL, no handler runs. Each write's name goes to `trace`.
"""

import faulthandler
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

BELOW = ("session", "put", "write_durably", "writing")
"""What every write goes through."""


class Zygote:
    """Forks coordinators and clients; used from any thread."""

    def __init__(self, base: Path) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(base)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._lock = threading.Lock()
        assert self._process.stdout.readline() == "ready\n"

    def live(self, within_s: float = 120.0, **order: object) -> int:
        """One process's life; its exit code, -9 when it was killed."""
        pid, deadline = self._ask(order), time.monotonic() + within_s
        code = None
        try:
            while (code := self._ask({"pid": pid})) is None:
                assert time.monotonic() < deadline, "it does not end"
                time.sleep(0.01)
        finally:
            if code is None:
                os.kill(pid, signal.SIGKILL)
        return code

    def _ask(self, order: dict) -> int | None:
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def prepare(base: str) -> None:
    """Import and load whatever a coordinator needs; no thread may be running afterwards."""
    import torch

    torch.set_num_threads(1)

    from fedmore.coordinator.monitor.tracker import NullTracker
    from fedmore.coordinator.run import lifecycle, stages
    from fedmore.experts.base.model import linear_shapes, load_base
    from fedmore.strategies.compression.codec import codec_of, decode, encode

    codec = codec_of("sign1")
    decode(codec, encode(codec, [torch.ones(8, 8)]), [(8, 8)])  # compiled here, not by each child
    load_base(base, "float32", "cpu", "none")
    linear_shapes(base)
    lifecycle.tracker_of = lambda _: NullTracker()
    assert stages
    assert threading.active_count() == 1, threading.enumerate()


class Writes:
    """Counts durable writes by name, and ends the process at one of them."""

    def __init__(self, name: str, number: int, when: str, trace: str) -> None:
        self._point = (name, number, when)
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lock = threading.Lock()
        self._count: Counter[str] = Counter()
        self._changes: dict[object, int] = {}

    def install(self, folder: Path) -> None:
        from sqlalchemy.engine.default import DefaultDialect

        commit, replace, unlink = DefaultDialect.do_commit, Path.replace, Path.unlink

        def do_commit(dialect, connection):
            raw = connection.dbapi_connection
            if self._changes.get(raw, 0) == raw.total_changes:
                return commit(dialect, connection)  # it only read
            self._changes[raw] = raw.total_changes
            return self.around("commit", commit, dialect, connection)

        def in_folder(path):
            return folder in path.parents and not path.name.startswith(".tmp-")

        def replaced(path, target):
            if in_folder(Path(target)):
                return self.around("rename", replace, path, target)
            return replace(path, target)

        def unlinked(path, missing_ok=False):
            if in_folder(path) and path.exists():
                return self.around("delete", unlink, path, missing_ok)
            return unlink(path, missing_ok)

        DefaultDialect.do_commit, Path.replace, Path.unlink = do_commit, replaced, unlinked

    def around(self, kind, write, *arguments):
        name = f"{kind} {where()}"
        with self._lock:
            self._count[name] += 1
            number = self._count[name]
        self.die(name, number, "before")
        result = write(*arguments)
        os.write(self._trace, f"{name}\n".encode())
        self.die(name, number, "after")
        return result

    def die(self, *point):
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


def where() -> str:
    """The functions of ours that led here, the innermost last."""
    ours = [f.name for f in traceback.extract_stack() if "/coordinator/" in f.filename]
    return " > ".join([name for name in ours if name not in BELOW][-2:])


def coordinate(order: dict) -> None:
    """A coordinator's life."""
    from rich.console import Console

    from fedmore.coordinator.run import lifecycle

    directory = Path(order["directory"])
    Writes(*order["at"], order["trace"]).install(directory / "blobs")
    if order["until"]:
        threading.Thread(target=until, args=(Path(order["until"]),), daemon=True).start()
    lifecycle.start(directory, Console(file=io.StringIO()), lifecycle.Settings(patience_s=60))


def command(order: dict) -> None:
    """A `coordinator` command's life: every file of the folder that goes or comes is a write."""
    from fedmore.coordinator.cli import main as cli

    Writes(*order["at"], order["trace"]).install(Path(order["directory"]))
    cli.app(order["argv"], standalone_mode=False)


def until(file: Path) -> None:
    """Pull the plug once the file is there."""
    while not file.exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)


def take_part(order: dict) -> None:
    """A client's life; with `dies`, it is killed in the middle of its first training."""
    from flwr.app import Context, RecordDict

    from fedmore.client.client_app import handle
    from fedmore.client.identity.enrolment import read_identity
    from fedmore.client.session.runner import Session
    from fedmore.client.training.progress import reporting

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
        faulthandler.dump_traceback_later(60)  # into the log: what hangs
        lives = {"coordinate": coordinate, "take part": take_part, "command": command}
        lives[order["do"]](order)
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
