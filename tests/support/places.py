"""A federation's folder with its clients' folders, and a whole plan run over it in this process."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import Context, RecordDict
from owners import owner

from fedmore.client.client_app import handle
from fedmore.coordinator.config.schema import FederationConfig, parse_config
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.monitor.mlflow_tracker import NullTracker
from fedmore.coordinator.run.stages import run_stages
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import EMBEDDINGS, FORGETTING
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.protos.wire.flower_compat import RUN
from fedmore.sims.data.generated import generate_text
from fedmore.sims.data.tiny_model import make_tiny_base
from fedmore.sims.engines.workers import Node, Workers
from fedmore.strategies.events import RoundFinished

CLIENTS = (  # name, kind, target, rank, text
    ("kitchen-a", "expert", "kitchen", 2, "kitchen"),
    ("kitchen-b", "expert", "kitchen", 5, "kitchen"),
    ("garden", "expert", "garden", 4, "garden"),
    ("foreign", "adapter", "xx", 3, "foreign"),
)
SHARED = {
    "steps": 2, "batch_size": 2, "sequence_length": 32, "learning_rate": 2e-2, "first_layers": 1,
    "last_layers": 1, "threads": 1, "timeout_s": 60.0,
}  # fmt: skip
STAGES = [
    {"kind": "experts", "rounds": 2, **SHARED},
    {"kind": "language", "rounds": 2, **SHARED},
    {"kind": "router", "rounds": 1, **SHARED},
]


def make_material(folder):
    """A base and texts."""
    make_tiny_base(folder / "base")
    names = ("kitchen", "garden", "foreign", "plain", "sums")
    return folder, {name: generate_text(name, folder / name, 16) for name in names}


def interrupt_after_a_round(event):
    """An observer of a plan: Ctrl-C comes when a round is finished."""
    if isinstance(event, RoundFinished):
        raise KeyboardInterrupt


@dataclass
class Place:
    """A federation's folder with its clients' folders: everything that outlives a process."""

    directory: Path
    config: FederationConfig
    texts: dict
    plugins: tuple = ()
    """Those that every owner has allowed."""

    def run(self, observer=lambda _: None, prepare=lambda _: None, clients=CLIENTS):
        """One life of the coordinator and its clients."""
        with self.registry() as registry:
            queue, nodes = TaskQueue(), dict(self.node(registry, *c) for c in clients)
            prepare(registry)
            with Workers(queue, nodes, handle, lambda _: None):
                run_stages(
                    federation=Federation(self.directory, self.config, registry, self.store),
                    grid=TaskGrid(queue),
                    tracker=NullTracker(),
                    observer=observer,
                )

    def registry(self):
        return Registry.open(self.directory)

    @property
    def store(self):
        return Store(self.directory / "blobs")

    def copy(self, directory):
        """The same federation in another folder."""
        shutil.copytree(self.directory, directory)
        return replace(self, directory=directory)

    def node(self, registry, name, kind, target, rank, text):
        known = {m.name: m for m in registry.members()}
        if name not in known:
            known[name] = registry.enrol(registry.invite(name), name, kind, target, rank)
        base = self.config.base
        config = {
            "name": name, "kind": kind, "target": target, "rank": rank,
            "data": str(self.texts[text].train), "base": base.model, "dtype": base.dtype,
            "quantization": "none", "device": "cpu",
            **owner(self.directory / "of" / name, name, plugins=self.plugins),
        }  # fmt: skip
        node_id = known[name].node_id
        return node_id, Node(name, Context(RUN, node_id, config, RecordDict(), {}))

    def outcome(self):
        """Everything that must not depend on interruptions."""
        with self.registry() as registry:
            return {
                "experts": {(e.name, e.stage, e.round): e.digest for e in registry.experts()},
                "states": {(r.stage, r.round): r.metrics[STATE] for r in registry.rounds()},
                "errors": {(r.stage, r.round): r.metrics["experts"] for r in registry.rounds()},
                "embeddings": registry.get_state(EMBEDDINGS),
                "forgetting": registry.get_state(FORGETTING),
                "tokens": {m.name: m.train_tokens for m in registry.members()},
                "evaluation": (self.directory / "evaluation.json").read_text(encoding="utf-8"),
                "mixture": (self.directory / "mixture" / "mixture.json").read_text("utf-8"),
            }


def config_of(material, **changes):
    folder, texts = material
    heldout = {"xx": "foreign"} | {n: n for n in ("kitchen", "garden", "plain", "sums")}
    table = {
        "federation": {"name": "test", "seed": 3, "clients": len(CLIENTS)},
        "base": {"model": str(folder / "base"), "dtype": "float32"},
        "stages": STAGES,
        "router": {"kind": "domain", "top_k": 2, "public_text": str(texts["plain"].train)},
        "evaluation": {
            "texts": {name: str(texts[text].heldout) for name, text in heldout.items()},
            "documents": 2,
            "tokens": 48,
        },
    }
    return parse_config(table | changes, "test")


def place(material, directory, plugins=(), **changes):
    directory.mkdir()
    return Place(directory, config_of(material, **changes), material[1], plugins)
