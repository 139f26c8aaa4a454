"""The contract of one client: which tasks it does, and that answers are as declared for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from fedmore.client.data.text_amount import PASSAGE, TextAmount, text_amount
from fedmore.client.egress.answer_rules import AnswerRules, rules_of, takes_part
from fedmore.client.egress.plugins import plugins_in
from fedmore.client.egress.schema import AnswerSchema, hello_answer
from fedmore.client.owner.answered_rounds import Answered
from fedmore.client.owner.node_config import Node
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import EgressError
from fedmore.experts.plugins import Plugin
from fedmore.experts.spec import TargetModule
from fedmore.strategies.members import HELLO
from fedmore.strategies.stages.kinds import KINDS, StageKind, kind_of, kinds_asking, load
from fedmore.strategies.tasks.base import Work
from fedmore.strategies.tasks.schema import TaskSchema
from fedmore.strategies.tasks.train import TrainTask
from fedmore.strategies.terms import Terms


@dataclass(frozen=True)
class EgressPolicy:
    """The declarations above for one client of one federation."""

    node: Node
    node_id: int

    def check_task(self, task: Message) -> None:
        """Raise `EgressError` for a task whose answer may not leave, `WireError` for no task."""
        self._check_plugins(plugins_in(task))
        if task.metadata.message_type == HELLO:
            return
        rules, asked = self.read(task)
        rules.check_choice(self, asked)
        self._check_terms(task.metadata.message_type, asked)
        rules.check(self, asked)

    def read(self, task: Message) -> tuple[AnswerRules, Any]:
        """The rules for a task of a stage, and what it asks; raises as `check_task` does."""
        row = self._rows(task.metadata.message_type)[0]
        return rules_of(row), load(row.task, TaskSchema).read(task.content)

    def _rows(self, message_type: str) -> list[StageKind]:
        """The kinds of stages that have tasks of a type; raises `EgressError` if none has."""
        if rows := kinds_asking(message_type):
            return rows
        known = dict.fromkeys(row.message_type for row in KINDS.values())
        raise EgressError(
            f"asked for {message_type!r}; only {', '.join((HELLO, *known))} are answered"
        )

    def answer_to(self, task: Message) -> AnswerSchema:
        """What may leave as the answer to `task`."""
        if task.metadata.message_type == HELLO:
            return hello_answer(self.node)
        rules, asked = self.read(task)
        return rules.answer(self, asked)

    def check_reply(self, task: Message, reply: Message) -> None:
        """Raise `EgressError` unless `reply` is what is declared for `task`."""
        self.check_task(task)
        if reply.has_error():
            raise EgressError("the app answered with an error of its own; its text stays here")
        self.answer_to(task).check(reply.content)

    def sites(self, task: TrainTask) -> tuple[TargetModule, ...]:
        """The matrices that a task changes."""
        return task.spec(self.node.name).sites(shapes_of(self.node.load().model))

    @property
    def width(self) -> int:
        """Numbers of an input embedding."""
        return int(self.node.load().model.get_input_embeddings().weight.shape[1])

    def check_plan(self, terms: Terms) -> None:
        """Raise `EgressError` if a stage of a plan asks for what this owner lets no one have.

        Its settings may be out of bounds, or its answers made of more text than there is.
        """
        self._check_plugins(terms.plugins())
        for stage in terms.stages:
            rules_of(kind_of(stage)).check_stage(self, stage, terms)

    @property
    def answered(self) -> Answered:
        """Which rounds this client has taken on."""
        return self.node.answered

    def claim(self, group: str, key: str) -> None:
        """Take on the task `key` as the one of its round; raises `EgressError` for another."""
        self.answered.claim(group, key, self.node.rules.rounds_per_day)

    def check_text(self, needed: int) -> None:
        """Raise `EgressError` unless the owner has `needed` tokens of text, and enough passages."""
        rules, text = self.node.rules, self.node.load().text
        floor = TextAmount(needed, rules.min_passages)
        found = text_amount(self.node.documents(), text, floor)
        if found.tokens < floor.tokens:
            raise EgressError(
                f"the owner's text has {found.tokens} tokens, and nothing leaves that is made of "
                f"fewer than {needed} (--min-tokens, or min_tokens, tokens_per_direction and "
                "min_embedding_tokens of --policy)"
            )
        if found.passages < floor.passages:
            raise EgressError(
                f"the owner's text has {found.passages} passages of up to {PASSAGE} tokens, and "
                f"nothing leaves that is made of fewer than {floor.passages} (min_passages of "
                "--policy)"
            )

    def check_embedded(self, tokens: int, passages: int) -> None:
        """Raise `EgressError` for a domain embedding of too few tokens or passages."""
        rules = self.node.rules
        if tokens < rules.min_embedding_tokens or passages < rules.min_passages:
            raise EgressError(
                f"the embedding would be made of {tokens} tokens in {passages} passages; the owner "
                f"lets none out of fewer than {rules.min_embedding_tokens} in "
                f"{rules.min_passages} (min_embedding_tokens and min_passages of --policy)"
            )

    def tokens_needed(self, task: Work) -> int:
        """Tokens that must be behind the answer to a task of training."""
        return rules_of(KINDS[task.stage]).tokens_needed(self, task)

    def check_amount(self, task: Work, tags: Sequence[str]) -> None:
        """Every setting inside the owner's bounds, and enough tokens and steps behind an answer.

        `tags` are those of the codecs that the answer travels in.
        """
        rules = self.node.rules
        if not 1 <= task.round <= task.rounds:
            raise EgressError(f"asked for round {task.round} of {task.rounds}")
        if found := rules.excess(task.stage, task):
            raise EgressError(f"asked for more than the owner allows: {'; '.join(found)}")
        if not set(tags) <= set(rules.codecs):
            raise EgressError(
                f"asked for an update as {task.codec!r}; the owner allows "
                f"{', '.join(rules.codecs)} (--codec)"
            )
        if min(task.batch_size, task.sequence_length) < 1 or task.steps < rules.min_steps:
            raise EgressError(
                f"asked for an update made of {task.steps} x {task.batch_size} windows; the owner "
                f"lets none out of fewer than {rules.min_steps} steps (min_steps of --policy)"
            )
        if task.tokens < (needed := self.tokens_needed(task)):
            raise EgressError(
                f"asked for an update made of {task.tokens} tokens of text, and the owner lets "
                f"none out of fewer than {needed} (--min-tokens, or min_tokens and "
                "tokens_per_direction of --policy)"
            )

    def _check_plugins(self, plugins: Sequence[Plugin]) -> None:
        """Before any of them is imported: the owner must have allowed every one."""
        if found := self.node.rules.strangers(plugins):
            raise EgressError(f"the coordinator asks for what is not fedmore's: {'; '.join(found)}")

    def _check_terms(self, message_type: str, task: Any) -> None:
        """Raise `EgressError` if a task is not one of the plan that the owner agreed to.

        It must be of a stage with such tasks, in which this client has a part; under another's
        name it would be answered beyond the rounds of its own.
        """
        rows = [row for row in self._rows(message_type) if takes_part(self, row.stage)]
        kinds = [row.kind for row in rows]
        if task.stage not in kinds:
            raise EgressError(f"asked for a task of {' or '.join(kinds)} in a stage {task.stage!r}")
        if self.node.rules.consent == "bounds":
            return
        terms = self.node.agreement.agreed
        if terms is None:
            raise EgressError("the owner has agreed to no plan yet (client accept)")
        if found := load(rows[0].task, TaskSchema).differences(terms, task):
            raise EgressError(
                f"not a task of the plan that the owner agreed to: {'; '.join(found)}"
            )
