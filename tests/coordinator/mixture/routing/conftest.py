"""Federations whose plan ends with a routing stage, over clients in this process."""

from dataclasses import replace

import pytest
import torch
from places import Place
from thinning import rarer_slow

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.store.state_keys import ROUTER
from fedmore.experts.routers.serialization import load_router
from fedmore.sims.data.generated import generate_text
from fedmore.sims.data.tiny_model import make_tiny_base
from fedmore.strategies.events import StageStarted

CLIENTS = (  # name, kind, target, rank, text
    ("kitchen-a", "expert", "kitchen", 2, "kitchen"),
    ("kitchen-b", "expert", "kitchen", 3, "kitchen"),
    ("garden", "expert", "garden", 4, "garden"),
    ("foreign", "adapter", "xx", 2, "foreign"),
)
SHARED = {
    "steps": 2, "batch_size": 2, "sequence_length": 16, "learning_rate": 2e-2, "first_layers": 1,
    "last_layers": 1, "threads": 1, "timeout_s": 60.0,
}  # fmt: skip
STAGES = [
    {"kind": "experts", "rounds": 1, **SHARED},
    {"kind": "language", "rounds": 1, **SHARED},
    {"kind": "routing", "rounds": 2, **SHARED},
]


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """A base and texts, made once."""
    folder = tmp_path_factory.mktemp("material")
    make_tiny_base(folder / "base")
    names = ("kitchen", "garden", "foreign", "plain")
    return folder, {name: generate_text(name, folder / name, 12) for name in names}


class RoutingPlace(Place):
    """Such a federation, to which an owner that has withdrawn does not come back."""

    def run(self, observer=lambda _: None, prepare=lambda _: None, clients=CLIENTS):
        with self.registry() as registry:
            gone = registry.withdrawn()
        super().run(observer, prepare, [c for c in clients if c[0] not in gone])

    def router(self):
        """The router of the federation, and the names of its experts."""
        with self.registry() as registry:
            return load_router(self.store.get(registry.get_state(ROUTER)))

    def outcome(self):
        """Everything that must not depend on interruptions."""
        with self.registry() as registry:
            return {
                "experts": {(e.name, e.stage, e.round): e.digest for e in registry.experts()},
                "states": {(r.stage, r.round): r.metrics[STATE] for r in registry.rounds()},
                "router": registry.get_state(ROUTER),
                "tokens": {m.name: m.train_tokens for m in registry.members()},
                "blobs": self.store.digests(),
                "evaluation": (self.directory / "evaluation.json").read_text(encoding="utf-8"),
                "mixture": (self.directory / "mixture" / "mixture.json").read_text("utf-8"),
            }


@pytest.fixture(scope="session")
def place(material):
    """Call it with a folder and the router's settings: a new federation."""

    def make(directory, **router):
        directory.mkdir()
        folder, texts = material
        heldout = {"kitchen": "kitchen", "garden": "garden", "xx": "foreign"}
        table = {
            "federation": {"name": "test", "seed": 3, "clients": len(CLIENTS)},
            "base": {"model": str(folder / "base"), "dtype": "float32"},
            "stages": STAGES,
            "router": {
                "kind": "softmax", "trained_at": "clients", "num_selections": 2,
                "public_text": str(texts["plain"].train),
            } | router,
            "evaluation": {
                "texts": {name: str(texts[text].heldout) for name, text in heldout.items()},
                "documents": 1,
                "tokens": 24,
            },
        }  # fmt: skip
        return RoutingPlace(directory, parse_config(table, "test"), texts)

    return make


class InterruptedRunError(Exception):
    """Somebody pulled the plug."""


@pytest.fixture(scope="session")
def begun(place, tmp_path_factory):
    """A plan whose experts are trained, and whose routing stage has not begun."""
    torch.set_num_threads(1)
    made = place(tmp_path_factory.mktemp("begun") / "federation")

    def pull(event):
        if isinstance(event, StageStarted) and event.kind == "routing":
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        made.run(pull)
    return made


@pytest.fixture(scope="session", params=rarer_slow(["softmax", "remix"], ["softmax"]))
def routed(request, begun):
    """Call it with a folder and the router's settings: the plan, about to begin its routing."""

    def make(directory, **router):
        made = begun.copy(directory)
        made.config = replace(
            made.config, router=replace(made.config.router, kind=request.param, **router)
        )
        return made

    return make


@pytest.fixture(scope="session")
def straight(routed, tmp_path_factory):
    """The plan without interruptions."""
    torch.set_num_threads(1)
    made = routed(tmp_path_factory.mktemp("straight") / "federation")
    made.run()
    return made
