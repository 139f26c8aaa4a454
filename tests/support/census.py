"""A kind of stage from outside: every client says how many documents its owner has.

All of it is here: settings, task, the client's rules and work, the coordinator's strategy and
runner. `ROW` is the one thing that fedmore is told, by the entry point `stage.census`.
"""

from dataclasses import asdict, field
from typing import Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from fedmore.client.egress.answer_rules import AnswerRules
from fedmore.client.egress.floors import check_text
from fedmore.client.egress.schema import AnswerSchema, Number
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.run.stage_runner import StageRunner
from fedmore.experts.errors import EgressError, RoundError
from fedmore.strategies.members import ask_members
from fedmore.strategies.rounds.quorum_grid import RoundGrid
from fedmore.strategies.rounds.replies import by_node, read_replies
from fedmore.strategies.rounds.train_only import RoundStrategy
from fedmore.strategies.settings import STRICT
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.stages.kinds import StageKind
from fedmore.strategies.tasks.agreement import no_stage
from fedmore.strategies.tasks.base import read_request
from fedmore.strategies.tasks.schema import TaskSchema
from fedmore.strategies.terms import differing

ASK = "train.census"


@dataclass(frozen=True, config=STRICT)
class CensusStage(Stage):
    """Count documents, up to `most`."""

    kind: Literal["census"] = field(default="census", kw_only=True)
    most: int = 100

    def summary(self, terms):
        """One number."""
        return f"how many documents there are, up to {self.most}"


@dataclass(frozen=True, config=STRICT)
class CensusTask:
    """Count documents, up to `most`."""

    stage: str
    round: int
    most: int


_TASK = TypeAdapter(CensusTask)


def read(content):
    return read_request(content, _TASK, "a census task")


def differences(terms, task):
    stage = terms.stage(task.stage)
    if not isinstance(stage, CensusStage):
        return [no_stage(task.stage)]
    return differing({"round": 1, "most": stage.most}, asdict(task), frozenset())


TASK = TaskSchema(read, differences)


class CensusRules(AnswerRules):
    """One number, of an owner who has something to count."""

    def check(self, node, task):
        if task.most < 2:
            raise EgressError("a census of fewer than two documents tells of one")

    def check_stage(self, node, stage, terms):
        check_text(node, node.rules.min_tokens)

    def answer(self, node, task):
        return AnswerSchema(metrics={"metrics": {"documents": Number()}})

    def arrays(self, node, task):
        return {}


RULES = CensusRules()


def work(request, node):
    count = min(sum(1 for _ in node.documents()), request.task.most)
    return RecordDict({"metrics": MetricRecord({"documents": count})})


class CensusStrategy(RoundStrategy):
    """Asks everybody once."""

    def __init__(self, stage, on_round):
        self.stage, self.on_round, self.asked = stage, on_round, {}

    def patient(self, grid):
        return RoundGrid(grid, self.stage)

    def configure_train(self, server_round, arrays, config, grid):
        members, _ = ask_members(grid, self.stage.timeout_s, f"census/{server_round}")
        self.asked = dict(members)
        task = ConfigRecord(asdict(CensusTask("census", server_round, self.stage.most)))
        content = RecordDict({"task": task})
        group = f"census/{server_round}"
        return [Message(content, node, ASK, group_id=group) for node in self.asked]

    def aggregate_train(self, server_round, replies):
        found = read_replies(replies, self.asked, by_node, nothing_else, metrics=("documents",))
        if not found.accepted:
            raise RoundError("; ".join(found.failures), nobody=True)
        self.on_round(server_round, found.row(self.stage, server_round, {}))
        return ArrayRecord(), MetricRecord()


def nothing_else(_content, _member):
    """The metrics are all that an answer holds."""


def carry_out(context):
    if context.done:
        return

    def counted(number, metrics):
        state = context.federation.store.put(b"counted")
        context.recorder.finish(number, metrics | {STATE: state})

    context.recorder.begin(1)
    context.start(CensusStrategy(context.stage, counted), 1)


def goes_on_without(_context):
    return True


RUNNER = StageRunner(carry_out, goes_on_without)

ROW = StageKind(
    stage=CensusStage, message_type=ASK, runner="census:RUNNER", task="census:TASK",
    rules="census:RULES", work="census:work",
)  # fmt: skip
