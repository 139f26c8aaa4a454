"""What a client asks of the tasks of one kind, and what may leave as their answer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from fedmore.client.egress.schema import AnswerSchema
from fedmore.client.owner.node_config import Node
from fedmore.experts.spec import TargetModule
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.stages.kinds import StageKind, load
from fedmore.strategies.terms import Terms


class AnswerRules(ABC):
    """The rules of one kind of task; `task` is what its `TaskSchema` has read.

    `node` is the owner's client. `EgressPolicy` itself compares every task with the plan that the
    owner agreed to.
    """

    def check_choice(self, node: Node, task: Any) -> None:
        """Raise `EgressError` for a task that is not of what the owner chose to train."""
        return

    @abstractmethod
    def check(self, node: Node, task: Any) -> None:
        """Raise `EgressError` for a task whose answer says more than the owner lets out."""

    @abstractmethod
    def check_stage(self, node: Node, stage: Any, terms: Terms) -> None:
        """Raise `EgressError` for a stage of a plan whose tasks would be refused anyway."""

    @abstractmethod
    def answer(self, node: Node, task: Any) -> AnswerSchema:
        """Every record and number that may leave as the answer."""

    def brings(self, node: Node, task: Any) -> Iterable[tuple[TargetModule, int]]:
        """The matrices, and the rank of each, that a task's arrays are decoded to."""
        return ()

    def tokens_needed(self, node: Node, task: Any) -> int:
        """How many tokens of text must be behind an answer that is made by training."""
        return node.rules.min_tokens

    @abstractmethod
    def arrays(self, node: Node, task: Any) -> Mapping[str, int]:
        """How many matrices of which shape the answer holds, for the audit log."""


def rules_of(row: StageKind) -> AnswerRules:
    """The rules for the tasks of a kind of stage."""
    return load(row.rules, AnswerRules)  # type: ignore[type-abstract]


def takes_part(node: Node, stage: type[Stage] | Stage) -> bool:
    """Whether the owner's client has a part in a stage."""
    return stage.trains in (None, node.kind)
