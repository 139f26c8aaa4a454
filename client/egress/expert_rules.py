"""What may be asked of a client, and leave it, where it trains an expert or an adapter."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fedmore.client.egress.answer_rules import AnswerRules, takes_part
from fedmore.client.egress.schema import AnswerSchema, train_answer
from fedmore.experts import factors as low_rank
from fedmore.experts.errors import EgressError
from fedmore.experts.spec import TargetModule
from fedmore.strategies.compression.codec import codecs_of
from fedmore.strategies.expert_stage.pending import task_of
from fedmore.strategies.members import Member
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.tasks.train import TrainTask
from fedmore.strategies.terms import Terms

if TYPE_CHECKING:
    from fedmore.client.egress.policy import EgressPolicy


class ExpertRules(AnswerRules):
    """The owner's own target at its own rank, trained on enough text."""

    def check_choice(self, policy: "EgressPolicy", task: TrainTask) -> None:
        """Raise `EgressError` for another target, kind or rank."""
        node = policy.node
        asked = (task.kind, task.expert, task.target, task.rank)
        chosen = (node.kind, node.target, node.target, node.rank)
        if asked != chosen:
            raise EgressError(f"asked to train {asked}; the owner of this client chose {chosen}")

    def check(self, policy: "EgressPolicy", task: TrainTask) -> None:
        """Raise `EgressError` for an update made of too little, or in a codec too fine."""
        policy.check_amount(task, self._tags(policy, task))

    def check_stage(self, policy: "EgressPolicy", stage: FactorStage, terms: Terms) -> None:
        """Raise `EgressError` for a stage out of bounds, or for which there is too little text."""
        node = policy.node
        if takes_part(policy, stage):
            member = Member(node.name, node.kind, node.target, node.rank, 1, [], [])
            task = task_of(stage, member, 1, 0, terms.seed)
            self.check(policy, task)
            policy.check_text(self.tokens_needed(policy, task))

    def answer(self, policy: "EgressPolicy", task: TrainTask) -> AnswerSchema:
        """The encoded change of the factors, and seven numbers."""
        return train_answer(task, policy.sites(task))

    def brings(self, policy: "EgressPolicy", task: TrainTask) -> Iterable[tuple[TargetModule, int]]:
        """The aggregate's factors, and the client's own."""
        return brought(task, policy.sites(task))

    def tokens_needed(self, policy: "EgressPolicy", task: TrainTask) -> int:
        """The floor that grows with rank and precision."""
        return policy.node.rules.tokens_needed(task.rank, self._tags(policy, task))

    def arrays(self, policy: "EgressPolicy", task: TrainTask) -> Mapping[str, int]:
        """The factors' shapes."""
        return Counter(f"{rows}x{columns}" for rows, columns in self._shapes(policy, task))

    def _shapes(self, policy: "EgressPolicy", task: TrainTask) -> list[tuple[int, int]]:
        sites = policy.sites(task)
        return low_rank.shapes(sites, {site.path: task.rank for site in sites})

    def _tags(self, policy: "EgressPolicy", task: TrainTask) -> list[str]:
        codecs = codecs_of(task.codec, self._shapes(policy, task))
        return sorted({codec.tag for codec in codecs})


def brought(task: TrainTask, sites: Sequence[TargetModule]) -> list[tuple[TargetModule, int]]:
    """The matrices that a task's aggregate and the client's factors change, and their ranks."""
    shared = zip(sites, task.aggregate_ranks, strict=False)  # `read_aggregate` wants as many
    return [*shared, *((site, task.rank) for site in sites)]


RULES = ExpertRules()
