"""The client's work as a Flower ClientApp; the same under every engine.

`Context.node_config` holds what the owner chose (`fedmore.client.owner.node_config`). Every task
and every answer passes the contract (`fedmore.client.egress.policy`), under every engine.
"""

from collections.abc import Callable
from threading import Lock
from types import FunctionType

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmore.client.egress.policy import EgressPolicy
from fedmore.client.owner.node_config import Node
from fedmore.strategies.expert_stage.aggregate_mirror import fingerprint
from fedmore.strategies.members import Member, hello
from fedmore.strategies.stages.kinds import KINDS, load

Work = Callable[[RecordDict, EgressPolicy], RecordDict]


def contract_of(context: Context) -> EgressPolicy:
    """What may leave this node."""
    return EgressPolicy(Node.of(context), context.node_id)


def guarded(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """A Flower mod: raises `EgressError` for a task or answer that the contract does not know."""
    contract = contract_of(context)
    contract.check_task(message)
    reply = call_next(message, context)
    contract.check_reply(message, reply)
    return reply


app = ClientApp(mods=[guarded])
_served: set[str] = set()
_serving = Lock()


def handle(message: Message, context: Context) -> Message:
    """Do one task and return its answer."""
    serve_kinds()
    return app(message, context)


def serve_kinds() -> None:
    """Have the app do the tasks of every kind of stage that there is by now."""
    with _serving:
        for row in list(KINDS.values()):
            if row.message_type not in _served:
                _served.add(row.message_type)
                app.train(row.message_type.partition(".")[2] or "default")(_doing(row.work))


def _doing(name: str) -> Callable[[Message, Context], Message]:
    def do(message: Message, context: Context) -> Message:
        work: Work = load(name, FunctionType)
        return Message(work(message.content, contract_of(context)), reply_to=message)

    return do


@app.query("hello")
def _hello(message: Message, context: Context) -> Message:
    node = Node.of(context)
    size = sum(len(text.encode()) for text in node.documents())
    known = node.memory(context.node_id).entries()
    counts = [entry.updates for entry in known.values()]
    marks = [fingerprint(entry.mirror) for entry in known.values()]
    member = Member(node.name, node.kind, node.target, node.rank, size, list(known), counts, marks)
    return Message(hello(member), reply_to=message)


serve_kinds()
