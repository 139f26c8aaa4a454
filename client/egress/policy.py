"""What may leave one client: which tasks it does, and that answers are as declared for them."""

from dataclasses import dataclass

from flwr.app import Message

from fedmore.client.egress.answer_rules import AnswerRules, rules_of, takes_part
from fedmore.client.egress.schema import AnswerSchema, hello_answer
from fedmore.client.ingress.plugins import check_plugins
from fedmore.client.ingress.received_task import ReceivedTask
from fedmore.client.owner.node_config import Node
from fedmore.experts.errors import EgressError
from fedmore.strategies.stages.kinds import kind_of, load
from fedmore.strategies.tasks.schema import TaskSchema
from fedmore.strategies.terms import Terms


@dataclass(frozen=True)
class EgressPolicy:
    """Decides for one client what may leave, and nothing else.

    A task is None where the coordinator only asks who the client is.
    """

    node: Node

    def check_task(self, asked: ReceivedTask | None) -> None:
        """Raise `EgressError` for a task whose answer may not leave."""
        if asked is None:
            return
        rules = _rules(asked)
        rules.check_choice(self.node, asked.task)
        self._check_terms(asked)
        rules.check(self.node, asked.task)

    def answer_to(self, asked: ReceivedTask | None) -> AnswerSchema:
        """What may leave as the answer to a task."""
        return _rules(asked).answer(self.node, asked.task) if asked else hello_answer(self.node)

    def check_reply(self, asked: ReceivedTask | None, reply: Message) -> None:
        """Raise `EgressError` unless `reply` is what is declared for the task.

        The task is judged again: the plan may have changed while the work was done.
        """
        self.check_task(asked)
        if reply.has_error():
            raise EgressError("the app answered with an error of its own; its text stays here")
        self.answer_to(asked).check(reply.content)

    def check_plan(self, terms: Terms) -> None:
        """Raise `EgressError` if a stage of a plan asks for what this owner lets no one have.

        Its settings may be out of bounds, or its answers made of more text than there is.
        """
        check_plugins(terms.plugins(), self.node.rules)
        for stage in terms.stages:
            rules_of(kind_of(stage)).check_stage(self.node, stage, terms)

    def _check_terms(self, asked: ReceivedTask) -> None:
        """Raise `EgressError` if a task is not one of the plan that the owner agreed to.

        It must be of a stage with such tasks, in which this client has a part; under another's
        name it would be answered beyond the rounds of its own.
        """
        task = asked.task
        kinds = [row.kind for row in asked.kinds if takes_part(self.node, row.stage)]
        if task.stage not in kinds:
            raise EgressError(f"asked for a task of {' or '.join(kinds)} in a stage {task.stage!r}")
        if self.node.rules.consent == "bounds":
            return
        terms = self.node.agreement.agreed
        if terms is None:
            raise EgressError("the owner has agreed to no plan yet (client accept)")
        if found := load(asked.kinds[0].task, TaskSchema).differences(terms, task):
            raise EgressError(
                f"not a task of the plan that the owner agreed to: {'; '.join(found)}"
            )


def _rules(asked: ReceivedTask) -> AnswerRules:
    return rules_of(asked.kinds[0])
