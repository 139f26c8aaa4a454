"""What a client is asked for; kept until it is answered, in its round or late."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flwr.app import Message
from pydantic import TypeAdapter

from fedmore.experts import factors as low_rank
from fedmore.experts.errors import RankError
from fedmore.experts.factors import Factors
from fedmore.experts.spec import ExpertSpec, Shapes, TargetModule
from fedmore.strategies.expert_stage.changes import Change
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.members import Member
from fedmore.strategies.rounds.quorum_grid import NO_ANSWER
from fedmore.strategies.settings import parse
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.tasks.base import work_of
from fedmore.strategies.tasks.train import TrainTask

_MEMBER, _TASK = TypeAdapter(Member), TypeAdapter(TrainTask)


@dataclass(frozen=True)
class PendingTask:
    """One training task at its client; `number` is its round."""

    node: int
    member: Member
    task: TrainTask

    @property
    def name(self) -> str:
        """The name of the client."""
        return self.member.name

    @property
    def number(self) -> int:
        """The round (from 1) that the task was for."""
        return self.task.round

    def unanswered(self, number: int) -> str:
        """Why a client that is here has no part in round `number`."""
        return NO_ANSWER if self.number == number else f"still at its task of round {self.number}"


def by_id(messages: Iterable[tuple[Message, PendingTask]]) -> dict[str, PendingTask]:
    """What was asked, by the ids that the grid has given the messages."""
    return {message.metadata.message_id: asked for message, asked in messages}


def to_rows(asked: Mapping[str, PendingTask]) -> list[dict[str, Any]]:
    """As JSON, for the round's row in the registry."""
    return [
        {"id": key, "node": item.node, "member": asdict(item.member), "task": asdict(item.task)}
        for key, item in sorted(asked.items())
    ]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, PendingTask]:
    """The inverse of `to_rows`."""
    return {
        row["id"]: PendingTask(
            row["node"], parse(_MEMBER, row["member"]), parse(_TASK, row["task"])
        )
        for row in rows
    }


def sites_of(stage: FactorStage, member: Member, shapes: Shapes) -> tuple[TargetModule, ...]:
    """The matrices of the base that a member changes."""
    first, last = stage.layers
    spec = ExpertSpec(
        member.target, member.kind, member.target, member.rank, first, last, ranks=member.ranks
    )
    return spec.sites(shapes)


def initial_of(asked: PendingTask, stage: FactorStage, shapes: Shapes) -> Factors:
    """What the client's factors began as."""
    sites = sites_of(stage, asked.member, shapes)
    return low_rank.initial(asked.task.spec(asked.member.name), sites, asked.task.seed)


def change_of(
    asked: PendingTask,
    sent: Factors,
    state: ExpertState,
    number: int,
    stage: FactorStage,
    shapes: Shapes,
) -> Change:
    """What an answer that is taken in round `number` changes of an expert."""
    member, task = asked.member, asked.task
    component = state.components.get(member.name)
    if task.round_start == "aggregate":
        held = state.starts[member.name]
    else:
        held = component.factors if component else initial_of(asked, stage, shapes)
    # Weights of few bits come whole.
    after = sent if task.weight_bits else low_rank.total(held, sent)
    fresh = stage.staleness_decay ** (number - asked.number)
    scale = task.spec(member.name).scales(sites_of(stage, member, shapes))
    return Change(member.name, held, after, member.size, scale, fresh)


def unfit(stage: FactorStage, member: Member, shapes: Shapes) -> str:
    """Why a member cannot take part, as it describes itself; empty if it can."""
    if not member.size:
        return "says that it has no text to train on"
    try:
        sites_of(stage, member, shapes)
    except RankError as error:
        return str(error)
    return ""


def task_of(stage: FactorStage, member: Member, number: int, updates: int, seed: int) -> TrainTask:
    """A member's part in round `number` (from 1), of whose updates `updates` are mirrored."""
    first, last = stage.layers
    return TrainTask(
        expert=member.target,
        kind=member.kind,
        target=member.target,
        rank=member.rank,
        ranks=member.ranks,
        first_layers=first,
        last_layers=last,
        weight_bits=stage.weight_bits,
        rank_scaling=stage.rank_scaling,
        warm_up=stage.warm_up,
        round_start=stage.round_start,
        nested_ranks=stage.nested_ranks,
        **{**work_of(stage, number, updates, seed), "learning_rate": stage.rate_of(member.rank)},
    )
