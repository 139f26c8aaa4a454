"""Whether a task is one of the plan that an owner agreed to: every setting is compared."""

from collections.abc import Sequence
from dataclasses import asdict

from fedmore.strategies.embedding_stage.strategy import EmbedTask
from fedmore.strategies.expert_stage.pending import task_of
from fedmore.strategies.members import Member
from fedmore.strategies.router_stage.tasks import RouteTask
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.base import work_of
from fedmore.strategies.tasks.train import TrainTask
from fedmore.strategies.terms import Terms, differing

VARYING = frozenset({"updates", "aggregate_ranks", "mirror"})
"""Fields of a training task that differ between owners and rounds of one plan."""

VARYING_ROUTE = frozenset({"updates", "experts", "ranks", "width", "layers", "top_k"})
"""The same of a routing task; the client checks these against its base."""


def train_differences(terms: Terms, task: TrainTask) -> list[str]:
    """In what a training task differs from the terms; nothing if it does not."""
    stage = terms.stage(task.stage)
    if not isinstance(stage, FactorStage):
        return [_no_stage(task.stage)]
    member = Member(
        "", task.kind, task.expert, task.rank, size=1, experts=[], updates=[], mirrors=[]
    )
    agreed = asdict(task_of(stage, member, task.round, task.updates, terms.seed))
    return [
        *_out_of_rounds(stage, task.round),
        *differing(agreed, asdict(task), VARYING),
        *_of_rank("an aggregate", task.aggregate_ranks, stage.max_rank),
    ]


def route_differences(terms: Terms, task: RouteTask) -> list[str]:
    """In what a routing task differs from the terms; nothing if it does not."""
    stage = terms.stage(task.stage)
    if not isinstance(stage, RouterStage):
        return [_no_stage(task.stage)]
    agreed = {**work_of(stage, task.round, task.updates, terms.seed), **asdict(terms.router)}
    found = [*_out_of_rounds(stage, task.round), *differing(agreed, asdict(task), VARYING_ROUTE)]
    if task.top_k > terms.router.top_k:  # a router of fewer experts chooses fewer
        found.append(f"top_k is {task.top_k}, agreed was {terms.router.top_k}")
    ranks = [each.max_rank for each in terms.stages if isinstance(each, FactorStage)]
    return [*found, *_of_rank("an expert", task.ranks, max(ranks, default=FactorStage.max_rank))]


def embed_differences(terms: Terms, task: EmbedTask) -> list[str]:
    """In what an embedding task differs from the terms; nothing if it does not."""
    if not isinstance(terms.stage(task.stage), EmbeddingStage):
        return [_no_stage(task.stage)]
    agreed = {"documents": terms.embed_documents, "tokens": terms.embed_tokens, "seed": terms.seed}
    return differing(agreed | {"round": 1, "stage": "router"}, asdict(task), frozenset())


def _no_stage(kind: str) -> str:
    return f"the agreed plan has no stage {kind!r}"


def _of_rank(what: str, ranks: Sequence[int], most: int) -> list[str]:
    """What a stage keeps has no more rank than its plan says; more would only cost memory here."""
    largest = max(ranks, default=0)
    return [f"it brings {what} of rank {largest}, agreed was {most}"] if largest > most else []


def _out_of_rounds(stage: Stage, number: int) -> list[str]:
    if 1 <= number <= stage.rounds:
        return []
    return [f"round is {number}, agreed were rounds 1 to {stage.rounds}"]
