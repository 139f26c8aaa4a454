"""A plan with a stage of every kind, over clients in this process that may fail."""

import io

import pytest
from flwr.app import Context, RecordDict
from owners import owner
from rich.console import Console

from fedmore.client.client_app import handle
from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.folder.create import create
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.mixture.commands import AssembleOptions, assemble_mixture
from fedmore.coordinator.monitor.mlflow_tracker import NullTracker
from fedmore.coordinator.monitor.status import status, status_view
from fedmore.coordinator.run.stages import run_stages
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import EMBEDDINGS
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.protos.wire.flower_compat import RUN
from fedmore.sims.data.generated import generate_text
from fedmore.sims.data.tiny_model import make_tiny_base
from fedmore.sims.engines.workers import Node, Workers
from fedmore.strategies.embedding_stage.embeddings import dump, restore

CLIENTS = (  # name, kind, target, text
    ("kitchen", "expert", "kitchen", "kitchen"),
    ("garden", "expert", "garden", "garden"),
    ("sums", "expert", "sums", "sums"),
    ("plain", "expert", "plain", "plain"),
    ("foreign", "adapter", "xx", "foreign"),
    ("other", "adapter", "yy", "foreign"),
)
SHARED = {
    "rounds": 1, "steps": 1, "batch_size": 1, "sequence_length": 16, "first_layers": 1,
    "last_layers": 1, "threads": 1, "timeout_s": 60.0,
}  # fmt: skip
KINDS = ("experts", "language", "router", "routing")
ROUTED = {"kind": "softmax", "init": "domain", "trained_at": "clients"}


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """A base and texts, made once."""
    folder = tmp_path_factory.mktemp("material")
    make_tiny_base(folder / "base")
    names = ("kitchen", "garden", "sums", "plain", "foreign")
    return folder, {name: generate_text(name, folder / name, 24) for name in names}


class Place:
    """A federation's folder, and its members behind a queue."""

    def __init__(self, directory, material, clients=CLIENTS, kinds=KINDS, router=ROUTED):
        folder, self.texts = material
        self.directory, self.clients = directory, clients
        table = {
            "federation": {"name": "test", "seed": 3, "clients": len(clients)},
            "base": {"model": str(folder / "base"), "dtype": "float32"},
            "stages": [{"kind": kind, **SHARED} for kind in kinds],
            "router": router | {"public_text": str(self.texts["plain"].train)},
            "evaluation": {
                "texts": {"kitchen": str(self.texts["kitchen"].heldout)},
                "documents": 1, "tokens": 16,
            },
        }  # fmt: skip
        self.config = parse_config(table, "test")
        create(directory, self.config)
        self.registry = Registry.open(directory)
        self.store = Store(directory / "blobs")
        self.queue, self.members = TaskQueue(), {}
        for name, kind, target, _ in clients:
            token = self.registry.invite(name)
            self.members[name] = self.registry.enrol(token, name, kind, target, 2)

    def leave(self, name, reason, for_good=False):
        """The client is gone, as the transport would say it."""
        self.queue.leave(self.members[name].node_id, reason, for_good)

    def come_back(self, name):
        """The client is there again."""
        self.queue.join(self.members[name].node_id)

    def run(self, handler=handle, observer=lambda _: None):
        """The whole plan; what was observed."""
        events, nodes = [], dict(self.node(*client) for client in self.clients)
        with Workers(self.queue, nodes, handler, lambda _: None):
            run_stages(
                federation=Federation(self.directory, self.config, self.registry, self.store),
                grid=TaskGrid(self.queue),
                tracker=NullTracker(),
                observer=lambda event: (events.append(event), observer(event)),
            )
        return events

    def node(self, name, kind, target, text):
        base, node_id = self.config.base, self.members[name].node_id
        config = {
            "name": name, "kind": kind, "target": target, "rank": 2,
            "data": str(self.texts[text].train), "base": base.model, "dtype": base.dtype,
            "quantization": "none", "device": "cpu",
            **owner(self.directory / "of" / name, name),
        }  # fmt: skip
        return node_id, Node(name, Context(RUN, node_id, config, RecordDict(), {}))

    @property
    def embeddings(self):
        """What the router stage has collected, by client."""
        return restore(self.store.get(self.registry.get_state(EMBEDDINGS)))

    def forget(self, name):
        """As if this client had sent no embedding."""
        left = {client: sent for client, sent in self.embeddings.items() if client != name}
        self.registry.set_state(EMBEDDINGS, self.store.put(dump(left)))

    def assemble(self, router, *names):
        """What `coordinator assemble --router …` does."""
        assemble_mixture(self.directory, AssembleOptions(router=router, experts=names or None))

    def shows(self, text):
        """Whether `coordinator status` shows this text."""
        federation = Federation(self.directory, self.config, self.registry, self.store)
        console = Console(file=io.StringIO(), width=200)
        console.print(status_view(status(federation)))
        return text in console.file.getvalue()


@pytest.fixture
def place(material, tmp_path):
    made = Place(tmp_path / "federation", material)
    yield made
    made.registry.close()


@pytest.fixture
def pair(material, tmp_path):
    """A plan of one domain and one language, with an owner each."""
    made = Place(
        tmp_path / "federation",
        material, CLIENTS[:5:4], ("experts", "language"), {"kind": "uniform"},
    )  # fmt: skip
    yield made
    made.registry.close()


@pytest.fixture(scope="module")
def trained(material, tmp_path_factory):
    """A finished plan of two owners, of whom one sent no embedding after all."""
    made = Place(
        tmp_path_factory.mktemp("trained") / "federation",
        material, CLIENTS[:3:2], ("experts", "router"), {"kind": "domain"},
    )  # fmt: skip
    made.run()
    made.forget("sums")
    yield made
    made.registry.close()
