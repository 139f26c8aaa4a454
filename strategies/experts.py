"""The Flower strategy of the stages that train: domain experts, then language adapters."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmore.experts import factors as low_rank
from fedmore.experts.errors import RoundError, WireError
from fedmore.experts.factors import Factors
from fedmore.experts.spec import ExpertSpec, Shapes, Site
from fedmore.strategies.members import Member, ask_members
from fedmore.strategies.plan import Stage
from fedmore.strategies.state import Contribution, ExpertState, advance, fresh
from fedmore.strategies.tasks import (
    METRICS,
    TRAIN,
    TrainTask,
    read_metrics,
    read_update,
    train_content,
)

RoundMetrics = dict[str, Any]
OnRound = Callable[[int, RoundMetrics, Mapping[str, ExpertState]], None]


def train_stage(kind: str) -> str:
    """The kind of client that a stage trains: `experts` trains "expert", `language` "adapter"."""
    return {"experts": "expert", "language": "adapter"}[kind]


class ExpertStrategy(Strategy):
    """Clients of one stage move their components; aggregates follow exactly (`strategies.state`).

    `states` may hold experts of earlier rounds; `done` rounds of the stage are already in them.
    `on_round` is told each round's metrics and states before the next one begins. A client that
    fails is left out of its round and named in the metrics; a round in which all fail raises
    `RoundError` with every cause.
    """

    def __init__(
        self,
        stage: Stage,
        shapes: Shapes,
        seed: int,
        states: Mapping[str, ExpertState],
        on_round: OnRound,
        done: int = 0,
    ) -> None:
        self.stage, self.shapes, self.seed = stage, shapes, seed
        self.states = dict(states)
        self.on_round, self.done = on_round, done
        self._asked: dict[int, tuple[Member, TrainTask]] = {}
        self._missing: list[str] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message per client of this stage's kind."""
        members, self._missing = ask_members(grid, self.stage.timeout_s)
        wanted = [(node, m) for node, m in members if m.kind == train_stage(self.stage.kind)]
        if not wanted:
            nobody = f"no client trains for the stage {self.stage.kind!r}"
            raise RoundError("; ".join([nobody, *self._missing]))
        self._asked = {}
        owners = Counter(member.target for _, member in wanted)
        number = server_round + self.done
        return [self._message(node, m, number, owners[m.target]) for node, m in wanted]

    def _message(self, node: int, member: Member, number: int, owners: int) -> Message:
        sites = self._sites(member)
        state = self.states.setdefault(member.target, fresh(member.target, member.kind, sites))
        component = state.components.get(member.name)
        known = component.updates if component else 0
        lost = member.updates_of(member.target) != known
        others = owners > 1 or bool(set(state.components) - {member.name})
        shared = others and state.rank > 0
        task = self._task(member, number, known)
        content = train_content(
            task,
            sites,
            self.stage.download_codec,
            state.aggregate if shared else None,
            component.factors if component and lost else None,
        )
        self._asked[node] = (member, task)
        return Message(content, dst_node_id=node, message_type=TRAIN, group_id=str(number))

    def _task(self, member: Member, number: int, updates: int) -> TrainTask:
        stage = self.stage
        return TrainTask(
            expert=member.target,
            kind=member.kind,
            target=member.target,
            rank=member.rank,
            first_layers=stage.first_layers,
            last_layers=stage.last_layers,
            stage=stage.kind,
            round=number,
            rounds=self.stage.rounds,
            steps=stage.steps,
            batch_size=stage.batch_size,
            sequence_length=stage.sequence_length,
            learning_rate=stage.learning_rate,
            codec=stage.codec,
            threads=stage.threads,
            seed=self.seed,
            updates=updates,
        )

    def _sites(self, member: Member) -> tuple[Site, ...]:
        first, last = self.stage.first_layers, self.stage.last_layers
        spec = ExpertSpec(member.target, member.kind, member.target, member.rank, first, last)
        return spec.sites(self.shapes)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Advance every expert by what its clients sent; the same for any order of replies."""
        number = server_round + self.done
        changes, clients, failures = self._read(replies)
        if not changes:
            raise RoundError(f"round {number}: no client succeeded: " + "; ".join(failures))
        experts = {}
        for name in sorted({task.expert for _, task, _ in changes}):
            experts[name] = self._advance(name, [c for c in changes if c[1].expert == name])
        metrics = {
            "stage": self.stage.kind,
            "round": number,
            "clients": clients,
            "experts": experts,
            "failures": failures,
        }
        self.on_round(number, metrics, self.states)
        worst = max(entry["aggregation_error"] for entry in experts.values())
        return self.arrays(), MetricRecord({"aggregation_error": worst})

    def _read(
        self, replies: Iterable[Message]
    ) -> tuple[list[tuple[Member, TrainTask, Factors]], dict[str, Any], list[str]]:
        """Changes in order of client name, their metrics, and why the others gave none."""
        changes: list[tuple[Member, TrainTask, Factors]] = []
        clients: dict[str, Any] = {}
        waiting = dict(self._asked)
        failures = list(self._missing)
        for reply in replies:
            member, task = waiting.pop(reply.metadata.src_node_id)
            try:
                change = self._change(reply, member, task)
                clients[member.name] = read_metrics(reply.content, METRICS)
            except WireError as error:
                failures.append(f"{member.name}: {error}")
                continue
            changes.append((member, task, change))
        failures += [f"{member.name}: no answer in time" for member, _ in waiting.values()]
        return sorted(changes, key=lambda item: item[0].name), clients, sorted(failures)

    def _change(self, reply: Message, member: Member, task: TrainTask) -> Factors:
        if reply.has_error():
            raise WireError(reply.error.reason)
        return read_update(reply.content, self._sites(member), task.rank, task.codec)

    def _advance(self, name: str, changes: Sequence[tuple[Member, TrainTask, Factors]]) -> Any:
        total = sum(member.size for member, _, _ in changes)
        state = self.states[name]
        contributions = [
            self._contribution(state, member, task, change, member.size / total)
            for member, task, change in changes
        ]
        self.states[name], error = advance(state, contributions, self.stage.max_rank)
        return {"aggregation_error": error, "rank": self.states[name].rank}

    def _contribution(
        self, state: ExpertState, member: Member, task: TrainTask, change: Factors, weight: float
    ) -> Contribution:
        spec = task.spec(member.name)
        component = state.components.get(member.name)
        start = low_rank.initial(spec, self._sites(member), task.seed)
        before = component.factors if component else start
        after = low_rank.total(before, change)
        return Contribution(member.name, before, after, weight, spec.scale)

    def arrays(self) -> ArrayRecord:
        """Every expert's aggregate as numpy arrays named `expert/module path.A` and `.B`."""
        named: dict[str, Array] = {}
        for name, state in self.states.items():
            for key, tensor in low_rank.to_state(state.aggregate).items():
                named[f"{name}/{key}"] = Array(tensor.numpy())
        return ArrayRecord(named)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: held-out text is scored by the coordinator, on what is public."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Nothing to log: the coordinator's console shows the plan."""
