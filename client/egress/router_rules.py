"""What may be asked of a client, and leave it, where it trains the router."""

from collections import Counter
from collections.abc import Iterable, Mapping

from fedmore.client.egress.answer_rules import AnswerRules
from fedmore.client.egress.floors import check_amount, check_text
from fedmore.client.egress.routable import check_route
from fedmore.client.egress.schema import AnswerSchema, route_answer
from fedmore.client.owner.node_config import Node
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.spec import TargetModule
from fedmore.strategies.router_stage.tasks import RouteTask, change_codecs, trained_shapes
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.terms import Terms


class RouterRules(AnswerRules):
    """A router of this base, over experts that fit it, trained on enough text."""

    def check(self, node: Node, task: RouteTask) -> None:
        """Raise `EgressError` for a router that does not fit, or one made of too little."""
        check_route(task, node.width, node.shapes, node.rules)
        check_amount(node.rules, task, _tags(task), self.tokens_needed(node, task))

    def check_stage(self, node: Node, stage: RouterStage, terms: Terms) -> None:
        """Raise `EgressError` if there is too little text."""
        check_text(node, node.rules.min_tokens)

    def answer(self, node: Node, task: RouteTask) -> AnswerSchema:
        """The encoded change of the router, and seven numbers."""
        return route_answer(task)

    def brings(self, node: Node, task: RouteTask) -> Iterable[tuple[TargetModule, int]]:
        """The factors of every expert."""
        sites = task.sites(node.shapes)
        return [pair for expert in sites for pair in expert]

    def tokens_needed(self, node: Node, task: RouteTask) -> int:
        """The floor of an update without a rank."""
        return node.rules.tokens_needed(0, _tags(task))

    def arrays(self, node: Node, task: RouteTask) -> Mapping[str, int]:
        """The shapes of the router's parameters."""
        return Counter("x".join(map(str, shape)) for shape in _shapes(task))


def _shapes(task: RouteTask) -> list[tuple[int, ...]]:
    return list(trained_shapes(make_router(task.spec())).values())


def _tags(task: RouteTask) -> list[str]:
    return sorted({codec.tag for codec in change_codecs(task.codec, _shapes(task))})


RULES = RouterRules()
