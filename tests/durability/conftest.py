"""A federation whose coordinator can be killed at any write, with real clients that live on."""

import runpy
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from durable import CLIENTS, TEXTS, config_of
from flwr.app import Context, Message, RecordDict
from owners import owner

from fedmore.client.client_app import handle
from fedmore.client.identity.enrolment import Identity, Invite, enrol, read_identity, read_invite
from fedmore.client.session.runner import Session
from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder.create import create
from fedmore.coordinator.folder.invites import write_invite
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.journal_models import TaskRecord
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.base.model import load_base
from fedmore.experts.errors import MembershipError, TransportError
from fedmore.protos.wire.flower_compat import RUN
from fedmore.sims.data.generated import generate_text
from fedmore.sims.data.tiny_model import make_tiny_base

Zygote = runpy.run_path(str(Path(__file__).with_name("zygote.py")))["Zygote"]
WITHDRAWS = ("eve", 2)
"""Who takes its work back when it is asked for which round."""
NO_KILL = ("", 0, "")


@dataclass
class Place:
    """A federation's folder and its clients' folders: everything that outlives a process."""

    folder: Path
    texts: Path
    base: Path
    zygote: "Zygote"
    withdraws: tuple[str, int] = WITHDRAWS
    running: list[threading.Thread] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    done: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def directory(self) -> Path:
        return self.folder / "federation"

    def coordinate(self, at: tuple[str, int, str] = NO_KILL, until: Path | str = "") -> int:
        """One life of the coordinator: to the end, to a write, or until a file is there."""
        files = {"log": str(self.folder / "log"), "trace": str(self.folder / "trace")}
        order = {"do": "coordinate", "directory": str(self.directory), "at": at}
        return self.zygote.live(**order, **files, until=str(until))

    def command(self, *argv: str, at: tuple[str, int, str] = NO_KILL) -> int:
        """One life of `coordinator NAME DIR …`."""
        name, *rest = argv
        files = {"log": str(self.folder / "log"), "trace": str(self.folder / "trace")}
        order = {"do": "command", "directory": str(self.directory), "at": at}
        return self.zygote.live(**order, **files, argv=[name, str(self.directory), *rest])

    def writes(self) -> list[str]:
        return (self.folder / "trace").read_text().splitlines()

    def start_clients(self, but: str = "") -> None:
        for name in CLIENTS.keys() - {but}:
            thread = threading.Thread(target=self._take_part, args=(name,), daemon=True)
            thread.start()
            self.running.append(thread)

    def take_part(self, name: str, dies: bool) -> int:
        """The life of a client in a process of its own."""
        config = self.node_config(name)
        log = str(self.folder / f"{name}.log")
        return self.zygote.live(do="take part", config=config, dies=dies, log=log)

    def join_clients(self, within_s: float = 60.0) -> None:
        for thread in self.running:
            thread.join(within_s)
            assert not thread.is_alive(), f"a client did not end\n{self.log()}"
        assert self.errors == []

    def _take_part(self, name: str) -> None:
        try:
            identity = read_identity(self.state(name))
            assert identity is not None
            context = Context(RUN, identity.node_id, self.node_config(name), RecordDict(), {})

            def work(message: Message) -> Message:
                if (name, round_of(message)) == self.withdraws:
                    withdraw(identity, read_invite(self.folder / f"{name}.json").token)
                self.done[name, message.metadata.message_type] += 1
                return handle(message, context)

            assert Session(identity, patience_s=20).run(work)
        except TransportError:  # the plan was over before it was back; `outcome` tells the rest
            return
        except BaseException as error:
            if name != self.withdraws[0] or not isinstance(error, MembershipError):
                self.errors.append(error)

    def state(self, name: str) -> Path:
        return self.folder / "clients" / name

    def node_config(self, name: str) -> dict:
        kind, target, rank = CLIENTS[name]
        return {
            "name": name, "kind": kind, "target": target, "rank": rank,
            "data": str(self.texts / target / "train.jsonl"), "base": str(self.base),
            "dtype": "float32", "quantization": "none", "device": "cpu",
            **owner(self.state(name), name),
        }  # fmt: skip

    def story(self) -> str:
        """What went wrong, at either end."""
        return "\n".join([self.log(), *map(repr, self.errors)])

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def outcome(self) -> dict:
        """Everything that must not depend on who was killed when."""
        with Registry.open(self.directory) as registry, registry.database.session() as session:
            store = Store(self.directory / "blobs")
            for digest in store.digests():
                store.check(digest)
            return {
                "phase": registry.get_state("phase"),
                "experts": {(e.name, e.stage, e.round): e.digest for e in registry.experts()},
                "rounds": {(r.stage, r.round): untimed(r.metrics) for r in registry.rounds()},
                "tokens": {m.name: m.train_tokens for m in registry.members()},
                "tasks left": session.query(TaskRecord).count(),
                "strangers in the store": sorted(store.digests() - registry.digests()),
                "evaluation": (self.directory / "evaluation.json").read_text(encoding="utf-8"),
            }

    def copy(self, folder: Path) -> "Place":
        shutil.copytree(self.folder, folder)
        return Place(folder, self.texts, self.base, self.zygote, self.withdraws)


def untimed(metrics: dict) -> dict:
    """Metrics without how fast it went, when somebody withdrew, and what was sent until then."""
    experts = {
        name: {key: value for key, value in entry.items() if key != "download_bytes"}
        for name, entry in metrics.get("experts", {}).items()
    }
    clients = {name: entry | {"tokens_per_s": 0} for name, entry in metrics["clients"].items()}
    failures = [f for f in metrics.get("failures", []) if not f.startswith(WITHDRAWS[0])]
    return metrics | {"clients": clients, "failures": failures, "experts": experts}


def round_of(message: Message) -> int:
    return int(message.content.config_records.get("task", {}).get("round", 0))


def withdraw(identity: Identity, token: str, within_s: float = 60.0) -> None:
    """Take the work back, whoever is killed meanwhile; raises `MembershipError` once it is."""
    deadline = time.monotonic() + within_s
    with identity.link() as link:
        while time.monotonic() < deadline:
            with suppress(TransportError):
                link.withdraw("changed its mind", token)
            time.sleep(0.02)


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and texts, made once."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("material")
    base = make_tiny_base(folder / "base")
    load_base(str(base), "float32", "cpu", "none")  # transformers cannot load in two threads
    for name in TEXTS:
        generate_text(name, folder / "texts" / name, 16)
    return folder


@pytest.fixture(scope="session")
def template(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A federation whose clients have enrolled, before its first round."""
    folder = tmp_path_factory.mktemp("template")
    base = material / "base"
    with closing(Zygote(base)) as zygote:
        yield enrolled(Place(folder / "place", material / "texts", base, zygote), folder)


@pytest.fixture(scope="session")
def undisturbed(template: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run that nobody kills."""
    place = template.copy(tmp_path_factory.mktemp("undisturbed") / "place")
    place.start_clients()
    assert place.coordinate() == 0, place.story()
    place.join_clients()
    return place


@pytest.fixture(scope="session")
def enrolled_with(template: Place) -> Callable[[Path, FederationConfig], Place]:
    """Call it with a folder and a configuration: its clients let in, none of whom withdraws."""

    def make(folder: Path, config: FederationConfig) -> Place:
        place = Place(folder / "place", template.texts, template.base, template.zygote, ("", 0))
        return enrolled(place, folder, config)

    return make


def enrolled(place: Place, folder: Path, config: FederationConfig | None = None) -> Place:
    """The federation made, its clients let in, its coordinator killed."""
    create(place.directory, config or config_of(place.base, place.texts))
    for name in CLIENTS:
        write_invite(place.directory, name, place.folder / f"{name}.json")
    done = folder / "enrolled"
    first = threading.Thread(target=place.coordinate, kwargs={"until": done}, daemon=True)
    first.start()
    for name in CLIENTS:
        enrol_patiently(read_invite(place.folder / f"{name}.json"), place)
    done.touch()
    first.join(60)
    assert not first.is_alive(), place.log()
    (place.folder / "trace").unlink()  # the writes of a life that no test kills
    return place


def enrol_patiently(invite: Invite, place: Place, within_s: float = 30.0) -> None:
    """Enrol as soon as the coordinator listens."""
    state, deadline = place.state(invite.name), time.monotonic() + within_s
    while True:
        try:
            kind, target, rank = CLIENTS[invite.name]
            enrol(invite, state, kind=kind, target=target, rank=rank)
            return
        except TransportError:
            assert time.monotonic() < deadline, place.log()
            time.sleep(0.05)
