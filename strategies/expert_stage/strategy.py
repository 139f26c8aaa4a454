"""The Flower strategy of the stages that train: domain experts, then language adapters."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedmore.experts.errors import RoundError
from fedmore.experts.factors import Factors, asked_ranks
from fedmore.experts.spec import Shapes
from fedmore.strategies.expert_stage.advice import stuck, unguarded
from fedmore.strategies.expert_stage.aggregation import rule_of
from fedmore.strategies.expert_stage.downloads import Downloads
from fedmore.strategies.expert_stage.pending import (
    PendingTask,
    by_id,
    change_of,
    from_rows,
    initial_of,
    sites_of,
    task_of,
    to_rows,
    unfit,
)
from fedmore.strategies.expert_stage.progress import (
    Asks,
    Judge,
    Progress,
    Told,
    everybody,
    kept_as_left,
)
from fedmore.strategies.expert_stage.snapshot import arrays_of
from fedmore.strategies.expert_stage.state import ExpertState, begun_anew, fresh, without
from fedmore.strategies.expert_stage.step import advance, outer_of
from fedmore.strategies.members import Member, ask_members, nobody
from fedmore.strategies.rounds.quorum_grid import RoundGrid, quorum
from fedmore.strategies.rounds.replies import Replies, by_task, read_replies
from fedmore.strategies.rounds.train_only import RoundStrategy
from fedmore.strategies.rounds.update_limits import check_update
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.tasks.train import (
    METRICS,
    TRAIN,
    read_update,
    train_content,
)

RoundMetrics = dict[str, Any]
OnRound = Callable[[int, RoundMetrics, Mapping[str, ExpertState]], None]
Answer = tuple[PendingTask, Factors]


class ExpertStrategy(RoundStrategy):
    """Clients of one stage move their components; aggregates follow exactly (`strategies.state`).

    `on_round` is told each round's metrics and states before the next one begins. A client that
    fails is left out of its round and named in the metrics; a round without its quorum raises
    `RoundError` with every cause. `withdrawn` names the clients whose work is to be left out,
    and `judge` says what becomes of an expert then. `asks` says whom a round asks.
    """

    def __init__(
        self,
        stage: FactorStage,
        shapes: Shapes,
        seed: int,
        on_round: OnRound,
        progress: Progress | None = None,
        withdrawn: Callable[[], AbstractSet[str]] = nobody,
        judge: Judge = kept_as_left,
        asks: Asks = everybody,
    ) -> None:
        progress = progress or Progress()
        self.stage, self.shapes, self.seed = stage, shapes, seed
        self.states, self.done = dict(progress.states), progress.done
        self.on_round, self.withdrawn = on_round, withdrawn
        self._judge, self._asks = judge, asks
        self._late = from_rows(progress.late)
        self._sizes = dict(progress.sizes)
        self._patient: RoundGrid | None = None
        self._sent: list[tuple[Message, PendingTask]] = []
        self._missing: list[str] = []
        self._downloads = Downloads(stage.download_codec, stage.broadcast_rank)

    @property
    def _own(self) -> bool:
        """Whether owners go on with their own factors."""
        return self.stage.round_start == "own"

    def patient(self, grid: Grid) -> RoundGrid:
        """`grid` as this stage waits on it; give it to `start`."""
        return RoundGrid(grid, self.stage, {key: asked.node for key, asked in self._late.items()})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message per client of this stage's kind that is not busy with an earlier round."""
        number = server_round + self.done
        busy = {asked.node for asked in self._late.values()}
        patient = grid if isinstance(grid, RoundGrid) else self.patient(grid)
        self._patient, group = patient, f"{self.stage.kind}/{number}"
        here = set(patient.grid.get_node_ids())
        members, self._missing = ask_members(patient.grid, self.stage.timeout_s, group, busy)
        wanted = [(node, m) for node, m in members if self._fits(m, number)]
        if not wanted and not self._late:
            causes = [f"no client trains for the stage {self.stage.kind!r}", *self._missing]
            raise RoundError("; ".join(causes), nobody=True)
        patient.all_are_late = not wanted
        self._downloads = Downloads(self.stage.download_codec, self.stage.broadcast_rank)
        self._sent = [self._ask(node, m, number) for node, m in wanted]
        known = here - busy | {node for node, _ in members}
        patient.let_in(group, partial(self._ask_late, number), known, self._missing)
        return [message for message, _ in self._sent]

    def _fits(self, member: Member, number: int) -> bool:
        """Whether a member trains in this round; one that would, and cannot, is missing."""
        if member.kind != self.stage.trains or not self._asks(number, member.target):
            return False
        if why := unfit(self.stage, member, self.shapes):
            self._missing.append(f"{member.name}: {why}")
        return not why

    def _ask_late(self, number: int, node: int, member: Member) -> Message | None:
        """The task of a client that came while round `number` was open."""
        if not self._fits(member, number):
            return None
        self._sent.append(self._ask(node, member, number))
        return self._sent[-1][0]

    def _ask(self, node: int, member: Member, number: int) -> tuple[Message, PendingTask]:
        # What is asked follows from the state and the member alone, not from who else is here: a
        # round that is done again after a crash asks the same.
        # Its weight: not to be changed by what it says once it knows the others' experts.
        member = replace(member, size=self._sizes.setdefault(member.name, member.size))
        sites = sites_of(self.stage, member, self.shapes)
        state = self.states.setdefault(member.target, fresh(member.target, member.kind, sites))
        component = state.components.get(member.name)
        known = component.updates if component else 0
        if self._own and known and member.updates_of(member.target) not in (known, known + 1):
            # It lost its state: what it did stays in the aggregate, and it begins anew over that.
            state, known = begun_anew(state, member.name, self.stage.fold_tolerance), 0
        # Whose component is all of the aggregate has it in its own factors.
        alone = self._own and state.is_of_alone(member.name)
        shared = not state.is_nothing and not alone
        task = task_of(self.stage, member, number, known, self.seed)
        if shared:
            holds = member.mirror_of(member.target)
            content, state = self._downloads.content(state, task, sites, holds, member.name)
        else:
            content = train_content(task, sites, self.stage.download_codec, None)
        group, asked = f"{self.stage.kind}/{number}", PendingTask(node, member, task)
        message = Message(content, dst_node_id=node, message_type=TRAIN, group_id=group)
        if not self._own:
            first = initial_of(asked, self.stage, self.shapes)
            scale = task.spec(member.name).scales(sites)
            begun = self._downloads.start(state, sites, first, scale) if shared else first
            state = replace(state, starts={**state.starts, member.name: begun})
        self.states[member.target] = state
        return message, asked

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Advance every expert by what its clients sent; the same for any order of replies."""
        number = server_round + self.done
        found = self._read(replies, number)
        answers = [(each.asked, each.value) for each in found.accepted]
        in_time = sum(asked.number == number for asked, _ in answers)
        if not answers or (self._sent and in_time < quorum(self.stage, len(self._sent))):
            most = "no client" if not answers else f"{in_time} of {len(self._sent)} clients"
            why = f"round {number}: {most} succeeded: " + "; ".join(found.failures)
            raise RoundError(why, nobody=not answers)
        if number >= self.stage.rounds and self._patient is not None:
            self._patient.give_up(list(self._late))  # there is no later round to use them in
            self._late = {}
        experts = self._advance(answers, number)
        owners = {name: len(entry["owners"]) for name, entry in experts.items()}
        metrics = {
            **found.row(self.stage, number, experts),
            "clients": {
                each.asked.name: {
                    **each.metrics,
                    "behind": number - each.asked.number,
                    "download_bytes": self._downloads.bytes_to(each.asked.name),
                }
                for each in found.accepted
            },
            "warnings": unguarded(self.stage, owners) + stuck(self.stage, self.states),
            "late": to_rows(self._late),
            "sizes": dict(sorted(self._sizes.items())),
        }
        self.on_round(number, metrics, self.states)
        worst = max(entry["aggregation_error"] for entry in experts.values())
        return arrays_of(self.states), MetricRecord({"aggregation_error": worst})

    def _read(self, replies: Iterable[Message], number: int) -> Replies[str, PendingTask, Factors]:
        """The changes that came; tasks that may be answered in a later round are kept."""
        absent = self._patient.absent if self._patient else {}
        found = read_replies(
            replies,
            self._late | by_id(self._sent),
            by_task,
            self._change,
            metrics=METRICS,
            withdrawn=self.withdrawn,
            missing=self._missing,
            unanswered=lambda key, asked: absent.get(key) or asked.unanswered(number),
        )
        pending = self._patient.pending if self._patient else set()
        self._late = {key: each for key, each in found.unanswered.items() if key in pending}
        return found

    def _change(self, content: RecordDict, asked: PendingTask) -> Factors:
        task = asked.task
        sites = sites_of(self.stage, asked.member, self.shapes)
        ranks = asked_ranks(task.spec(asked.name), sites)
        change = read_update(content, sites, ranks, task.codec)
        check_update(change, task, initial_of(asked, self.stage, self.shapes), self.stage.max_rms)
        return change

    def _advance(self, answers: Sequence[Answer], number: int) -> dict[str, Any]:
        """Every expert that changes, with its error, its rank and its owners."""
        gone, metrics = self.withdrawn(), dict[str, Any]()
        rule, limit = rule_of(self.stage), self.stage.max_rank
        energy = self.stage.aggregate_energy
        late = {asked.name for asked in self._late.values()}
        for name, state in sorted(self.states.items()):
            own = [item for item in answers if item[0].task.expert == name]
            left, told = gone & set(state.owners), Told()
            if not own and not left:
                continue
            kept, error = state, 0.0
            if left:
                kept, error, told = self._judge(state, *without(state, left, limit, energy))
            if own:
                changes = [
                    change_of(asked, sent, kept, number, self.stage, self.shapes)
                    for asked, sent in own
                ]
                kept, error = advance(kept, changes, limit, rule, outer_of(self.stage), energy)
            starts = {client: each for client, each in kept.starts.items() if client in late}
            self.states[name] = replace(kept, starts=starts)
            metrics[name] = {**kept.summary(error), **self._downloads.figures(name), **told}
        return metrics
