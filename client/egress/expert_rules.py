"""What may be asked of a client, and leave it, where it trains an expert or an adapter."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fedmore.client.egress.answer_rules import AnswerRules, takes_part
from fedmore.client.egress.floors import check_amount, check_text
from fedmore.client.egress.schema import AnswerSchema, train_answer
from fedmore.client.owner.node_config import Node
from fedmore.experts import factors as low_rank
from fedmore.experts.errors import EgressError
from fedmore.experts.spec import TargetModule
from fedmore.strategies.compression.codec import codecs_of
from fedmore.strategies.expert_stage.pending import task_of
from fedmore.strategies.members import Member
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.tasks.train import TrainTask
from fedmore.strategies.terms import Terms


class ExpertRules(AnswerRules):
    """The owner's own target at its own rank, trained on enough text."""

    def check_choice(self, node: Node, task: TrainTask) -> None:
        """Raise `EgressError` for another target, kind, rank or pattern of ranks."""
        asked = (task.kind, task.expert, task.target, task.rank, task.ranks)
        chosen = (node.kind, node.target, node.target, node.rank, node.ranks)
        if asked != chosen:
            raise EgressError(f"asked to train {asked}; the owner of this client chose {chosen}")

    def check(self, node: Node, task: TrainTask) -> None:
        """Raise `EgressError` for an update made of too little, or in a codec too fine."""
        check_amount(node.rules, task, self._tags(node, task), self.tokens_needed(node, task))

    def check_stage(self, node: Node, stage: FactorStage, terms: Terms) -> None:
        """Raise `EgressError` for a stage out of bounds, or for which there is too little text."""
        if takes_part(node, stage):
            who = (node.name, node.kind, node.target, node.rank)
            member = Member(*who, 1, [], [], ranks=node.ranks)
            task = task_of(stage, member, 1, 0, terms.seed)
            self.check(node, task)
            check_text(node, self.tokens_needed(node, task))

    def answer(self, node: Node, task: TrainTask) -> AnswerSchema:
        """The encoded change of the factors, and seven numbers."""
        return train_answer(task, _sites(node, task))

    def brings(self, node: Node, task: TrainTask) -> Iterable[tuple[TargetModule, int]]:
        """The aggregate's factors, and the client's own."""
        return brought(task, node.name, _sites(node, task))

    def tokens_needed(self, node: Node, task: TrainTask) -> int:
        """The floor that grows with precision and with the largest rank of any matrix."""
        # Of factors the smaller side is the rank, and a full-size matrix has its full one.
        rank = max(min(shape) for shape in self._shapes(node, task))
        return node.rules.tokens_needed(rank, self._tags(node, task))

    def arrays(self, node: Node, task: TrainTask) -> Mapping[str, int]:
        """The factors' shapes."""
        return Counter(f"{rows}x{columns}" for rows, columns in self._shapes(node, task))

    def _shapes(self, node: Node, task: TrainTask) -> list[tuple[int, int]]:
        spec, sites = task.spec(node.name), _sites(node, task)
        return low_rank.shapes(sites, low_rank.asked_ranks(spec, sites))

    def _tags(self, node: Node, task: TrainTask) -> list[str]:
        sites = _sites(node, task)
        roles = low_rank.roles(sites, low_rank.asked_ranks(task.spec(node.name), sites))
        codecs = codecs_of(task.codec, self._shapes(node, task), roles)
        return sorted({codec.tag for codec in codecs})


def _sites(node: Node, task: TrainTask) -> tuple[TargetModule, ...]:
    return task.spec(node.name).sites(node.shapes)


def brought(
    task: TrainTask, client: str, sites: Sequence[TargetModule]
) -> list[tuple[TargetModule, int]]:
    """The matrices that a task's aggregate and the client's factors change, and their ranks."""
    shared = zip(sites, task.aggregate_ranks, strict=False)  # `TrainRequest` wants as many
    own = low_rank.asked_ranks(task.spec(client), sites)
    return [*shared, *((site, own[site.path]) for site in sites)]


RULES = ExpertRules()
