"""Whether a routing task is one of the plan that an owner agreed to."""

from dataclasses import asdict

from fedmore.strategies.router_stage.tasks import RouteTask, read_route_request
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.agreement import no_stage, of_rank, out_of_rounds
from fedmore.strategies.tasks.base import work_of
from fedmore.strategies.tasks.schema import TaskSchema
from fedmore.strategies.terms import Terms, differing

VARYING_ROUTE = frozenset({"updates", "experts", "ranks", "width", "layers", "top_k"})
"""Fields of a routing task that differ between rounds; the client checks these by its base."""


def route_differences(terms: Terms, task: RouteTask) -> list[str]:
    """In what a routing task differs from the terms; nothing if it does not."""
    stage = terms.stage(task.stage)
    if not isinstance(stage, RouterStage):
        return [no_stage(task.stage)]
    agreed = {**work_of(stage, task.round, task.updates, terms.seed), **asdict(terms.router)}
    found = [*out_of_rounds(stage, task.round), *differing(agreed, asdict(task), VARYING_ROUTE)]
    if task.top_k > terms.router.top_k:  # a router of fewer experts chooses fewer
        found.append(f"top_k is {task.top_k}, agreed was {terms.router.top_k}")
    ranks = [each.max_rank for each in terms.stages if isinstance(each, FactorStage)]
    return [*found, *of_rank("an expert", task.ranks, max(ranks, default=FactorStage.max_rank))]


TASK = TaskSchema(read_route_request, route_differences)
