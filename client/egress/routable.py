"""Which routing tasks fit the base that this client holds."""

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import EgressError
from fedmore.experts.routers.spec import is_learned, is_per_layer
from fedmore.experts.spec import Shapes, layer_of
from fedmore.strategies.router_stage.tasks import RouteTask

MAX_EXPERTS = 256
MAX_HIDDEN = 4096


def check_route(task: RouteTask, width: int, shapes: Shapes, rules: OwnerPolicy) -> None:
    """Raise `EgressError` for a router of another base, none that learns, or of absurd size.

    Raises `WireError` if the experts' ranks are not one for each of the base's matrices.
    """
    _check_size(task, rules.max_samples)
    if not is_learned(task.kind):
        raise EgressError(f"asked to train the router {task.kind!r}, which is set, not trained")
    if task.width != width:
        raise EgressError(f"asked for a router of width {task.width}; the base has {width}")
    blocks = set[int]()
    for expert, pairs in zip(task.experts, task.sites(shapes), strict=True):
        for site, rank in pairs:
            if not 0 <= rank <= min(site.out_features, site.in_features):
                raise EgressError(f"the expert {expert!r} has a rank of {rank} in {site.path}")
            blocks.add(layer_of(site.path))
    if not blocks:
        raise EgressError("asked for a router of experts that change no matrix")
    task.spec()
    decisions = {len(blocks)} if is_per_layer(task.kind) else {1, len(blocks)}
    if task.layers not in decisions:
        raise EgressError(
            f"asked for a router of {task.layers} decisions over {len(blocks)} changed blocks"
        )


def _check_size(task: RouteTask, max_samples: int) -> None:
    limits = (
        ("experts", len(task.experts), MAX_EXPERTS),
        ("hidden numbers", task.hidden, MAX_HIDDEN),
        ("selections a window", task.num_selections, max_samples),
    )
    for what, count, most in limits:
        if not 1 <= count <= most:
            raise EgressError(f"asked for a router of {count} {what}, not 1 to {most}")
    if len(set(task.experts)) < len(task.experts):
        raise EgressError("asked for a router of two experts of one name")
    if task.kind == "remix" and task.num_selections < 2:
        raise EgressError("asked for ReMix with one selection a window; it needs 2 or more")
