"""Whether a training task is one of the plan that an owner agreed to."""

from dataclasses import asdict

from fedmore.strategies.expert_stage.pending import task_of
from fedmore.strategies.members import Member
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.tasks.agreement import no_stage, of_rank, out_of_rounds
from fedmore.strategies.tasks.schema import TaskSchema
from fedmore.strategies.tasks.train import TrainTask, read_train_request
from fedmore.strategies.terms import Terms, differing

VARYING = frozenset({"updates", "aggregate_ranks", "mirror"})
"""Fields of a training task that differ between owners and rounds of one plan."""


def train_differences(terms: Terms, task: TrainTask) -> list[str]:
    """In what a training task differs from the terms; nothing if it does not."""
    stage = terms.stage(task.stage)
    if not isinstance(stage, FactorStage):
        return [no_stage(task.stage)]
    member = Member(
        "", task.kind, task.expert, task.rank, size=1, experts=[], updates=[], mirrors=[],
        ranks=task.ranks,
    )  # fmt: skip
    agreed = asdict(task_of(stage, member, task.round, task.updates, terms.seed))
    return [
        *out_of_rounds(stage, task.round),
        *differing(agreed, asdict(task), VARYING),
        *of_rank("an aggregate", task.aggregate_ranks, stage.max_rank),
    ]


TASK = TaskSchema(read_train_request, train_differences)
