"""The client's work as a function of Flower's message and context; the same under every engine.

`Context.node_config` holds what the owner chose (`fedmore.client.owner.node_config`). A message is
read at this door, once (`fedmore.client.ingress.received_task`). The value goes to the policy, to
the work and with the answer to the policy again (`fedmore.client.egress.policy`).
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

from flwr.app import Context, Message, RecordDict

from fedmore.client.egress.policy import EgressPolicy
from fedmore.client.ingress.received_task import ReceivedTask, receive
from fedmore.client.owner.node_config import Node
from fedmore.strategies.expert_stage.aggregate_mirror import fingerprint
from fedmore.strategies.members import Member, hello
from fedmore.strategies.stages.kinds import load
from fedmore.strategies.tasks.base import Request

Work = Callable[[Request[Any], Node], RecordDict]


def handle(message: Message, context: Context) -> Message:
    """Do one task and return its answer.

    Raises `EgressError` for a task or an answer that the owner's policy does not know.
    """
    node = Node.of(context)
    policy, asked = EgressPolicy(node), receive(message, node.rules)
    policy.check_task(asked)
    reply = Message(_work(asked, node) if asked else _hello(node), reply_to=message)
    policy.check_reply(asked, reply)
    return reply


def _work(asked: ReceivedTask, node: Node) -> RecordDict:
    work: Work = load(asked.kinds[0].work, FunctionType)
    return work(asked.request, node)


def _hello(node: Node) -> RecordDict:
    """Who this client is, how much text its owner has, and what it remembers."""
    size = sum(len(text.encode()) for text in node.documents())
    known = node.memory.entries()
    counts = [entry.updates for entry in known.values()]
    marks = [fingerprint(entry.mirror) for entry in known.values()]
    who = (node.name, node.kind, node.target, node.rank)
    return hello(Member(*who, size, list(known), counts, marks, node.ranks))
