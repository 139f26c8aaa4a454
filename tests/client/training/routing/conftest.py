"""Routing tasks for a client with a tiny base, over three random experts."""

from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from owners import owner

from fedmore.client.client_app import handle
from fedmore.client.state.memory import Memory
from fedmore.experts.base.model import shapes_of
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import ExpertSpec
from fedmore.protos.wire.flower_compat import make_task
from fedmore.strategies.router_stage.tasks import (
    ROUTE,
    RouteTask,
    ranks_of,
    route_arrays,
    route_content,
)
from fedmore.strategies.tasks.train import TRAIN, TrainTask, train_content

OWNERS = (
    ExpertSpec("kitchen", "expert", "kitchen", 3),
    ExpertSpec("garden", "expert", "garden", 5),
    ExpertSpec("xx", "adapter", "xx", 2, 1, 1),
)
NODE = 5


@pytest.fixture
def shapes(base):
    return shapes_of(base.model)


@pytest.fixture
def context(context):
    return Context(1, NODE, context.node_config | {"rank": 3}, RecordDict(), {})


@pytest.fixture
def elsewhere(context, tmp_path):
    """Call it with a name: the same client on another machine, with nothing to remember."""

    def of(name):
        config = context.node_config | owner(tmp_path / name, "a", min_tokens=32)
        return Context(1, NODE, config, RecordDict(), {})

    return of


@pytest.fixture
def experts(shapes):
    """Random, of no use for any text."""

    def factors(spec):
        g = torch.Generator().manual_seed(len(spec.name))

        def draw(*size):
            return torch.randn(size, generator=g) * 0.2

        return {s.path: (draw(s.out_features, spec.rank), draw(spec.rank, s.in_features))
                for s in spec.sites(shapes)}  # fmt: skip

    return {spec.name: factors(spec) for spec in OWNERS}


@pytest.fixture
def useful(experts, context, shapes):
    """The first of the experts, trained on the owner's text; `asked` sends it then."""
    spec = OWNERS[0]
    task = TrainTask(
        expert="kitchen", kind="expert", target="kitchen", rank=3, first_layers=10, last_layers=2,
        stage="experts", round=1, rounds=1, steps=12, batch_size=4, sequence_length=32,
        learning_rate=5e-2, codec="fp32", threads=1, seed=0, updates=0,
    )  # fmt: skip
    content = train_content(task, spec.sites(shapes), "fp32", None)
    handle(make_task(content, task_id="t", node_id=NODE, message_type=TRAIN), context)
    made = Memory(Path(context.node_config["state"]) / f"node-{NODE}").read("kitchen").component
    experts["kitchen"] = {path: (spec.scale * b, a) for path, (b, a) in made.items()}


def router_of(spec):
    """With numbers as after some training."""
    made, g = make_router(spec), torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=g)
    return made


@pytest.fixture
def asked(experts, shapes):
    """Call it for the content of a routing message, with changes of its task."""

    def make(number=1, kind="remix", of=None, init="zero", **changes):
        chosen = {name: experts[name] for name in of or experts}
        layers = 6 if kind == "xlora" else 1
        spec = RouterSpec(kind, len(chosen), 64, layers, top_k=2, hidden=8, init=init)
        values = {
            "kind": kind, "experts": tuple(chosen), "ranks": ranks_of(chosen, shapes),
            "width": 64, "layers": layers, "granularity": spec.granularity,
            "prefix_tokens": spec.prefix_tokens, "top_k": spec.top_k, "scaling": spec.scaling,
            "hidden": spec.hidden, "num_selections": 3, "entropy_weight": 0.0,
            "z_loss_weight": 1e-3, "stage": "routing", "round": number, "rounds": 3, "steps": 3,
            "batch_size": 2, "sequence_length": 32, "learning_rate": 0.05, "codec": "sign1",
            "threads": 1, "seed": 0, "updates": number - 1, "init": init,
        }  # fmt: skip
        arrays = route_arrays(router_of(spec), chosen, shapes, "fp32")
        return route_content(RouteTask(**(values | changes)), arrays)

    return make


@pytest.fixture
def do(context):
    """Call it with the content of a routing message: the reply's."""

    def run(content, at=None):
        message = make_task(content, task_id="t", node_id=NODE, message_type=ROUTE)
        return handle(message, at or context).content

    return run
