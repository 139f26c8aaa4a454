"""The guard of our own app: the policy, with a record of what it let out and what it refused."""

from collections.abc import Mapping
from typing import Any

from flwr.app import Message

from fedmore.client.egress.answer_rules import rules_of
from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.guard import ReplyCheck, note_allowed, noted_reason, rounded
from fedmore.client.egress.policy import EgressPolicy
from fedmore.client.ingress.decoding import check_decoding, decoding_limit
from fedmore.client.ingress.received_task import ReceivedTask, receive
from fedmore.client.owner.node_config import Node
from fedmore.protos.wire.records import OUR_CONTENT
from fedmore.strategies.events import Report

ENVELOPE = 1 << 20
"""Bytes that a content may have beside its tensors."""


def guard_of(node_id: int, config: Mapping[str, Any], audit: Audit) -> "PolicyGuard":
    """The guard for a `node_config`."""
    return PolicyGuard(EgressPolicy(Node.read(config, node_id)), audit)


class PolicyGuard:
    """Lets out what `EgressPolicy` declares; see `fedmore.client.egress.guard.EgressGuard`.

    It reads a task for itself, once, and trusts nothing that the app has made of it.
    """

    def __init__(self, policy: EgressPolicy, audit: Audit) -> None:
        self.policy = policy
        self.audit = audit

    max_content = OUR_CONTENT

    @property
    def max_download(self) -> int:
        """An aggregate of full rank and a component of full rank, for every matrix of the base.

        Or as much of low-rank experts, which a routing task brings; but nothing that does not fit
        into the memory that is free.
        """
        shapes = self.policy.node.shapes.values()
        numbers = sum(min(out, inner) * (out + inner) for out, inner in shapes)
        return min(2 * 4 * numbers, decoding_limit()) + ENVELOPE

    def check_task(self, task: Message) -> ReplyCheck:
        """What its reply must pass; raises `EgressError` for a task whose answer may not leave."""
        node = self.policy.node
        asked = receive(task, node.rules)
        self.policy.check_task(asked)
        if asked:
            check_decoding(rules_of(asked.kinds[0]).brings(node, asked.task))

        def check_reply(reply: Message) -> Message:
            """The reply, noted; raises `EgressError` unless it is what the policy declares."""
            self.policy.check_reply(asked, reply)
            note_allowed(self.audit, task, reply, self._matrices(asked))
            return reply

        return check_reply

    def progress(self, report: Report) -> Report:
        """The report with its numbers rounded."""
        return rounded(report)

    def reason(self, task_id: str, error: BaseException) -> str:
        """Why a task failed, in words that may leave; a refusal is noted."""
        return noted_reason(self.audit, task_id, error)

    def _matrices(self, asked: ReceivedTask | None) -> dict[str, Any]:
        """How many factors of which shape the one array of an answer holds, if it has one."""
        if asked is None:
            return {}
        return {"factors": dict(rules_of(asked.kinds[0]).arrays(self.policy.node, asked.task))}
