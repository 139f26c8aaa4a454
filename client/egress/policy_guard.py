"""The guard of our own app: the contract, with a record of what it let out and what it refused."""

from collections.abc import Mapping
from typing import Any

from flwr.app import Message

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.guard import note_allowed, noted_reason, rounded
from fedmore.client.egress.policy import EgressPolicy
from fedmore.client.ingress.decoding import check_decoding, decoding_limit
from fedmore.client.owner.node_config import Node
from fedmore.experts.base.model import shapes_of
from fedmore.protos.wire.records import OUR_CONTENT
from fedmore.strategies.events import Report
from fedmore.strategies.members import HELLO

ENVELOPE = 1 << 20
"""Bytes that a content may have beside its tensors."""


def guard_of(node_id: int, config: Mapping[str, Any], audit: Audit) -> "PolicyGuard":
    """The guard for a `node_config`."""
    return PolicyGuard(EgressPolicy(Node.read(config), node_id), audit)


class PolicyGuard:
    """Lets out what `EgressPolicy` declares; see `fedmore.client.egress.guard.EgressGuard`."""

    def __init__(self, contract: EgressPolicy, audit: Audit) -> None:
        self.contract = contract
        self.audit = audit

    max_content = OUR_CONTENT

    @property
    def max_download(self) -> int:
        """An aggregate of full rank and a component of full rank, for every matrix of the base.

        Or as much of low-rank experts, which a routing task brings; but nothing that does not fit
        into the memory that is free.
        """
        shapes = shapes_of(self.contract.node.load().model).values()
        numbers = sum(min(out, inner) * (out + inner) for out, inner in shapes)
        return min(2 * 4 * numbers, decoding_limit()) + ENVELOPE

    def check_task(self, task: Message) -> None:
        """Raise `EgressError` for a task whose answer could not be let out."""
        self.contract.check_task(task)
        if task.metadata.message_type != HELLO:
            rules, asked = self.contract.read(task)
            check_decoding(rules.brings(self.contract, asked))

    def check_reply(self, task: Message, reply: Message) -> Message:
        """The reply, noted; raises `EgressError` unless it is what the contract declares."""
        self.contract.check_reply(task, reply)
        note_allowed(self.audit, task, reply, self._matrices(task))
        return reply

    def progress(self, report: Report) -> Report:
        """The report with its numbers rounded."""
        return rounded(report)

    def reason(self, task_id: str, error: BaseException) -> str:
        """Why a task failed, in words that may leave; a refusal is noted."""
        return noted_reason(self.audit, task_id, error)

    def _matrices(self, task: Message) -> dict[str, Any]:
        """How many factors of which shape the one array of an update holds."""
        if task.metadata.message_type == HELLO:
            return {"factors": {f"1x{self.contract.width}": 1}}
        rules, asked = self.contract.read(task)
        return {"factors": dict(rules.arrays(self.contract, asked))}
