"""`coordinator start` on PostgreSQL, killed and started again."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedmore.client.identity.enrolment import enrol
from fedmore.client.session.runner import Session
from fedmore.coordinator.folder import create as inits
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.invites import write_invite
from fedmore.protos.enrolment.invite import read_invite
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.sims.engines.processes import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("url", ["postgresql"], indirect=True),
]
NAMES = ("ada", "bob")
COORDINATOR = """
import sys
from pathlib import Path
from flwr.app import Message, RecordDict
from rich.console import Console
from fedmore.coordinator.run import lifecycle
from fedmore.coordinator.monitor.tracker import NullTracker
from fedmore.protos.runtime.exits import run


def plan(*, federation, grid, **_):
    directory = federation.directory
    for number in (1, 2):
        group = f"experts/{number}"
        tasks = [Message(RecordDict(), n, "train", group_id=group) for n in grid.get_node_ids()]
        replies = list(grid.send_and_receive(tasks, timeout=60))
        assert not any(reply.has_error() for reply in replies), replies
        with (directory / "rounds").open("a") as file:
            file.write(f"{number} {sorted(r.content['c']['said'] for r in replies)}\\n")
    (directory / "evaluation.json").write_text('{"bits_per_byte": {}}')


lifecycle.tracker_of = lambda _: NullTracker()
settings = lifecycle.Settings(patience_s=60)
run(lambda: lifecycle.start(Path(sys.argv[1]), Console(file=sys.stdout), settings, plan))
"""


@contextmanager
def coordinator(directory):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", COORDINATOR, str(directory)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def patiently(action, within_s=60.0):
    deadline = time.monotonic() + within_s
    while True:
        try:
            return action()
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.05)


class Clients:
    """Two of them; each holds back its answer in round 2 until `may` is set."""

    def __init__(self, directory, folder):
        self.calls, self.errors = Counter(), []
        self.may, self.in_round_2 = threading.Event(), threading.Semaphore(0)
        for name in NAMES:
            write_invite(directory, name, folder / f"{name}.json")
        self.threads = [threading.Thread(target=self.live, args=(folder, n)) for n in NAMES]
        for thread in self.threads:
            thread.start()

    def live(self, folder, name):
        invite = read_invite(folder / f"{name}.json")
        who = {"kind": "expert", "target": "legal", "rank": 4}
        identity = patiently(lambda: enrol(invite, folder / name, **who))

        def answer(message):
            self.calls[name] += 1
            if self.calls[name] == 2:
                self.in_round_2.release()
                assert self.may.wait(60)
            said = f"{name} {self.calls[name]}"
            return make_reply(message, RecordDict({"c": ConfigRecord({"said": said})}))

        try:
            assert Session(identity, patience_s=60).run(answer)
        except BaseException as error:
            self.errors.append(error)


def test_it_goes_on_where_it_was_killed(base, tmp_path, url):
    directory = tmp_path / "federation"
    port = free_port("127.0.0.1")
    config = inits.new_config(
        name="demo", base=str(base), domains=("legal",), clients=2, port=port, database=url
    )
    config = replace(config, router=replace(config.router, kind="uniform"))
    inits.create(directory, config)
    with coordinator(directory) as first:
        clients = Clients(directory, tmp_path)
        for _ in NAMES:
            assert clients.in_round_2.acquire(timeout=60)
        shutil.copytree(directory, tmp_path / "elsewhere")
        with coordinator(tmp_path / "elsewhere") as second:
            assert second.wait(60) == 11, "one at a time, whatever the folder"
        first.send_signal(signal.SIGKILL)
        assert first.wait(10) == -9
    clients.may.set()
    with coordinator(directory) as again:
        assert again.wait(60) == 0
    for thread in clients.threads:
        thread.join(30)
        assert not thread.is_alive()
    assert clients.errors == []
    assert clients.calls == dict.fromkeys(NAMES, 2), "nothing was done twice"
    first_round, second_round = "1 ['ada 1', 'bob 1']", "2 ['ada 2', 'bob 2']"
    rounds = (directory / "rounds").read_text().splitlines()
    assert rounds == [first_round, first_round, second_round]
    with open_federation(directory) as opened:
        assert opened.registry.database.shared
        assert opened.registry.get_state("phase") == "finished"
