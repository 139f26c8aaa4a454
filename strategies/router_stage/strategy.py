"""The Flower strategy of the routing stage: clients train the mixture's router on their own text.

Every client receives the experts of all, frozen, and the router; it sends the change of the
router's parameters (`fedmore.strategies.router_stage.tasks`,
`fedmore.strategies.router_stage.state`).
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedmore.experts.errors import RoundError
from fedmore.experts.factors import Factors
from fedmore.experts.routers.base import Router
from fedmore.experts.spec import Shapes
from fedmore.strategies.members import Member, ask_members, nobody
from fedmore.strategies.rounds.quorum_grid import RoundGrid, quorum
from fedmore.strategies.rounds.replies import by_node, check_has_text, read_replies
from fedmore.strategies.rounds.train_only import RoundStrategy
from fedmore.strategies.rounds.update_limits import check_size
from fedmore.strategies.router_stage.state import Change, RouterState, fresh
from fedmore.strategies.router_stage.tasks import (
    ROUTE,
    RouteTask,
    ranks_of,
    read_change,
    route_arrays,
    route_content,
)
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.base import work_of
from fedmore.strategies.tasks.train import METRICS

OnRouting = Callable[[int, dict[str, Any], RouterState], None]


@dataclass(frozen=True)
class RoutingSource:
    """The source of what the stage works on, which is asked anew in every round.

    `experts` are those of owners who have not withdrawn, `initial` makes their router before any
    training. `num_selections`, `entropy_weight` and `z_loss_weight` are
    `fedmore.experts.router_training.gradient.Training`'s.
    """

    shapes: Shapes
    experts: Callable[[], Mapping[str, Factors]]
    initial: Callable[[Mapping[str, Factors]], Router]
    num_selections: int = 4
    entropy_weight: float = 0.0
    z_loss_weight: float = 1e-3
    withdrawn: Callable[[], AbstractSet[str]] = nobody


class RoutingStrategy(RoundStrategy):
    """Moves the router by the mean of the clients' changes.

    All train on as many windows, and count alike: by the size of their texts, as experts are
    weighted, a router would hardly learn of an owner who has little.

    `done` rounds have left `state`. A client that fails or is late is left out of its round and
    named in the metrics; a round without its quorum raises `RoundError`.
    """

    def __init__(
        self,
        stage: RouterStage,
        source: RoutingSource,
        seed: int,
        on_round: OnRouting,
        done: int = 0,
        state: RouterState | None = None,
    ) -> None:
        self.stage, self.source, self.seed = stage, source, seed
        self.on_round, self.done = on_round, done
        self._state = state
        self._router: Router | None = None
        self._asked: dict[int, Member] = {}
        self._missing: list[str] = []

    @property
    def state(self) -> RouterState:
        """The router as the last round left it."""
        if self._state is None:
            raise RoundError("the routing stage has not begun")
        return self._state

    def patient(self, grid: Grid) -> RoundGrid:
        """`grid` as this stage waits on it; give it to `start`."""
        return RoundGrid(grid, self.stage)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client, whatever it has trained."""
        number = server_round + self.done
        group = f"{self.stage.kind}/{number}"
        gone, experts = self.source.withdrawn(), self.source.experts()
        if not experts:
            raise RoundError("there is no expert to route; every owner has withdrawn")
        started = self._state or fresh(experts, self.source.initial(experts))
        self._state = started.without(gone).of(experts)
        patient = grid if isinstance(grid, RoundGrid) else self.patient(grid)
        here = set(patient.grid.get_node_ids())
        members, self._missing = ask_members(patient.grid, self.stage.timeout_s, group)
        wanted = [(node, member) for node, member in members if member.name not in gone]
        if not wanted:
            no_one = "no client trains the router"
            raise RoundError("; ".join([no_one, *self._missing]), nobody=True)
        router, shapes = self._state.router(), self.source.shapes
        self._router = router
        state = route_arrays(router, experts, shapes, self.stage.download_codec)
        ranks = ranks_of(experts, shapes)
        self._asked = {}

        def ask(node: int, member: Member) -> Message:
            self._asked[node] = member
            content = route_content(self._task(member, ranks, number), state)
            return Message(content, dst_node_id=node, message_type=ROUTE, group_id=group)

        patient.let_in(group, ask, here | {node for node, _ in members}, self._missing)
        return [ask(node, member) for node, member in wanted]

    def _task(self, member: Member, ranks: tuple[int, ...], number: int) -> RouteTask:
        source, spec = self.source, self.state.initial.spec
        return RouteTask(
            kind=spec.kind,
            experts=self.state.experts,
            ranks=ranks,
            width=spec.width,
            layers=spec.layers,
            granularity=spec.granularity,
            prefix_tokens=spec.prefix_tokens,
            top_k=spec.top_k,
            scaling=spec.scaling,
            hidden=spec.hidden,
            num_selections=source.num_selections,
            entropy_weight=source.entropy_weight,
            z_loss_weight=source.z_loss_weight,
            init=spec.init,
            **work_of(self.stage, number, self.state.updates(member.name), self.seed),
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move the router by what came; the same for any order of replies."""
        number, asked = server_round + self.done, len(self._asked)
        found = read_replies(
            replies,
            self._asked,
            by_node,
            self._change,
            metrics=METRICS,
            withdrawn=self.source.withdrawn,
            missing=self._missing,
        )
        changes = {each.asked.name: each.value for each in found.accepted}
        if len(changes) < quorum(self.stage, asked):
            causes = "; ".join(found.failures)
            raise RoundError(
                f"round {number}: {len(changes)} of {asked} clients succeeded: {causes}",
                nobody=not changes,
            )
        self._state = self.state.without(self.source.withdrawn()).advanced(changes)
        self.on_round(number, found.row(self.stage, number, {}), self._state)
        return ArrayRecord(), MetricRecord()

    def _change(self, content: RecordDict, member: Member) -> Change:
        check_has_text(member)
        if self._router is None:
            raise RoundError("the routing stage has not begun")
        change = read_change(content, self._router, self.stage.codec)
        limit = self.stage.max_rms or 4 * self.stage.learning_rate * self.stage.steps
        check_size({name: (tensor,) for name, tensor in change.items()}, limit)
        return change
