"""The guard of our own app: the contract, with a record of what it let out and what it refused."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from flwr.app import Message

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.guard import note_allowed, noted_reason, rounded
from fedmore.client.egress.policy import EgressPolicy
from fedmore.client.ingress.decoding import check_decoding, decoding_limit
from fedmore.client.owner.node_config import Node
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import shapes_of
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.spec import TargetModule
from fedmore.protos.wire.records import OUR_CONTENT
from fedmore.strategies.events import Report
from fedmore.strategies.router_stage.tasks import ROUTE, read_route_task, trained_shapes
from fedmore.strategies.tasks.train import TRAIN, read_task

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
        sites: tuple[TargetModule, ...] = ()
        if task.metadata.message_type == TRAIN:
            sites = self.contract.sites(read_task(task.content))
        check_decoding(task, sites, shapes_of(self.contract.node.load().model))

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
        kind = task.metadata.message_type
        if kind == ROUTE:
            router = make_router(read_route_task(task.content).spec())
            return {
                "factors": Counter("x".join(map(str, s)) for s in trained_shapes(router).values())
            }
        if kind != TRAIN:
            return {"factors": {f"1x{self.contract.width}": 1}}
        asked = read_task(task.content)
        sites = self.contract.sites(asked)
        counts: dict[str, int] = {}
        for rows, columns in low_rank.shapes(sites, {site.path: asked.rank for site in sites}):
            name = f"{rows}x{columns}"
            counts[name] = counts.get(name, 0) + 1
        return {"factors": counts}
