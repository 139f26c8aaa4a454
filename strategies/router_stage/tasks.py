"""What a routing task says and what its answer holds.

A task carries the router at full precision, and the low-rank changes of all experts in the stage's
`download_codec`. The answer carries one array, the encoded change of the router's parameters, and
the numbers of every training (`fedmore.strategies.tasks.train.METRICS`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedmore.experts import factors as low_rank
from fedmore.experts.errors import ConfigError, RegistryError, WireError
from fedmore.experts.factors import Factors
from fedmore.experts.former_names import ROUTER, former
from fedmore.experts.router_training.gradient import Training
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.serialization import make_router, restore_router
from fedmore.experts.routers.spec import Granularity, Init, Kind, RouterSpec, Scaling
from fedmore.experts.spec import Shapes, TargetModule
from fedmore.strategies.compression.codec import Codec, codecs_of, decode
from fedmore.strategies.router_stage.state import Change
from fedmore.strategies.settings import STRICT
from fedmore.strategies.tasks.base import Request, Work, arrays_in, read_settings
from fedmore.strategies.tasks.train import STYPE, pack, unpack

ROUTE = "train.route"

WHOLE = "fp32"
"""How a router travels: without loss."""

ABSENT = -1
"""In `RouteTask.ranks`: the expert does not change this matrix."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class RouteTask(Work):
    """Settings of one client's part in one round of a routing stage.

    The fields of `RouterSpec`, and those of a router's training. `ranks` holds for every expert in
    turn the rank of its change in each of the base's matrices, `low_rank.WHOLE` if it is of full
    size, or `ABSENT`.
    """

    kind: Kind
    experts: tuple[str, ...]
    ranks: tuple[int, ...]
    width: int
    layers: int
    granularity: Granularity
    prefix_tokens: int
    top_k: int
    scaling: Scaling
    hidden: int
    num_selections: int
    entropy_weight: float
    z_loss_weight: float
    init: Init = "zero"

    def spec(self) -> RouterSpec:
        """The router's; raises `WireError` for what no router can be."""
        try:
            return RouterSpec(
                self.kind, len(self.experts), self.width, self.layers, self.granularity,
                self.prefix_tokens, self.top_k, self.scaling, self.hidden, self.init,
            )  # fmt: skip
        except ConfigError as error:
            raise WireError(f"not a router of this version: {error}") from error

    def training(self, client: str) -> Training:
        """How `client` trains. Its text is of one domain, so there is nothing to balance.

        What ReMix draws differs between clients, so that its noise averages out.
        """
        drawn = hashlib.sha256(f"{client}/{self.seed}/{self.round}".encode()).digest()
        return Training(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            num_selections=self.num_selections,
            entropy_weight=self.entropy_weight,
            balance_weight=0.0,
            z_loss_weight=self.z_loss_weight,
            seed=int.from_bytes(drawn[:7], "little"),
        )

    def sites(self, shapes: Shapes) -> list[list[tuple[TargetModule, int]]]:
        """Every expert's matrices, each with the rank of its change; raises `WireError`."""
        count = len(shapes)
        if len(self.ranks) != count * len(self.experts):
            raise WireError(
                f"{len(self.ranks)} ranks for {len(self.experts)} experts and {count} matrices"
            )
        sites = [TargetModule(path, *shape) for path, shape in shapes.items()]
        found = []
        for index in range(len(self.experts)):
            ranks = self.ranks[index * count : (index + 1) * count]
            pairs = zip(sites, ranks, strict=True)
            found.append([(site, rank) for site, rank in pairs if rank != ABSENT])
        return found


_TASK = TypeAdapter(RouteTask)


def ranks_of(experts: Mapping[str, Factors], shapes: Shapes) -> tuple[int, ...]:
    """`RouteTask.ranks` of these experts over a base."""
    found = (low_rank.ranks(factors) for factors in experts.values())
    return tuple(ranks.get(path, ABSENT) for ranks in found for path in shapes)


def route_arrays(
    router: Router, experts: Mapping[str, Factors], shapes: Shapes, codec: str
) -> ArrayRecord:
    """What goes to every client of a round alike."""
    state = [tensor.float() for tensor in router.state_dict().values()]
    flat = [
        tensor
        for factors in experts.values()
        for path in shapes
        if path in factors
        for tensor in reversed(factors[path])
    ]
    sites = [TargetModule(path, *shape) for path, shape in shapes.items()]
    roles = [
        role
        for factors in experts.values()
        for role in low_rank.roles([s for s in sites if s.path in factors], low_rank.ranks(factors))
    ]
    return ArrayRecord({"router": pack(WHOLE, state), "experts": pack(codec, flat, roles)})


def route_content(task: RouteTask, arrays: ArrayRecord) -> RecordDict:
    """The content of a routing message; its settings have the names that they always had."""
    config: Any = former(asdict(task), ROUTER)
    config |= {name: list(config[name]) for name in ("experts", "ranks")}
    return RecordDict({"task": ConfigRecord(config), "state": arrays})


def read_route_task(content: RecordDict) -> RouteTask:
    """The settings in a routing message; raises `WireError` when they are not a `RouteTask`."""
    return read_settings(content, _TASK, "a routing task", ROUTER)


class RouteRequest(Request[RouteTask]):
    """A routing task, the router that it brings and the experts' changes."""

    def router(self) -> Router:
        """The router that the task is about; raises `WireError`."""
        spec, array = self.task.spec(), self._array("router")
        if array.stype != STYPE + WHOLE:
            raise WireError(f"the router travels as {WHOLE}, not as {array.stype}")
        state = make_router(spec).state_dict()
        found = unpack(array, [tuple(t.shape) for t in state.values()])
        try:
            return restore_router(spec.table(), dict(zip(state, found, strict=True)))
        except RegistryError as error:
            raise WireError(str(error)) from error

    def experts(self, shapes: Shapes) -> dict[str, Factors]:
        """Every expert's change, in the task's order; raises `WireError`."""
        sites = self.task.sites(shapes)
        ranks = [{site.path: rank for site, rank in pairs} for pairs in sites]
        among = [[site for site, _ in pairs] for pairs in sites]
        both = list(zip(among, ranks, strict=True))
        sizes = [shape for each in both for shape in low_rank.shapes(*each)]
        roles = [role for each in both for role in low_rank.roles(*each)]
        flat = iter(unpack(self._array("experts"), sizes, roles))
        experts: dict[str, Factors] = {}
        for name, (own, known) in zip(self.task.experts, both, strict=True):
            tensors = [next(flat) for _ in low_rank.shapes(own, known)]
            experts[name] = low_rank.from_tensors(tensors, own, known)
        return experts

    def _array(self, name: str) -> Array:
        if name not in self.arrays:
            raise WireError(f"the routing task holds no {name}")
        return self.arrays[name]


def read_route_request(content: RecordDict) -> RouteRequest:
    """A routing message as a value; raises `WireError` if it is not one, or brings more."""
    arrays = arrays_in(content, ("router", "experts"), "a routing task")
    return RouteRequest(read_route_task(content), arrays)


def trained_shapes(router: nn.Module) -> dict[str, tuple[int, ...]]:
    """The parameters that a client trains, by name, in the order in which they travel."""
    return {name: tuple(parameter.shape) for name, parameter in router.named_parameters()}


def change_codecs(codec: str, shapes: Sequence[Sequence[int]]) -> list[Codec]:
    """A codec for each of a router's parameters; raises `WireError`."""
    return codecs_of(codec, shapes, ["router"] * len(shapes))


def read_change(content: RecordDict, router: Router, codec: str) -> Change:
    """The change in an answer; raises `WireError` unless it is just what was asked."""
    record = content.array_records.get("update", ArrayRecord())
    if list(record) != ["change"]:
        raise WireError(f"the update holds {list(record)}, not one array named change")
    array = record["change"]
    if array.stype != STYPE + codec:
        raise WireError(f"the update is {array.stype}, the task asked for {codec}")
    shapes = trained_shapes(router)
    sizes = list(shapes.values())
    found: list[Tensor] = decode(change_codecs(codec, sizes), array.data, sizes)
    return dict(zip(shapes, found, strict=True))
