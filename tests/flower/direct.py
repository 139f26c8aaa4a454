"""The obvious grid: calls the ClientApp where it stands. What the engines are compared with."""

from collections.abc import Iterable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedmore.protos.wire.flower_compat import RUN, EmptyRun, RunType, identify, make_failure, stamp


class DirectGrid(Grid):
    """Nodes 101, 102, …, each with its own context."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        identify(RUN)
        self._app = app
        self._contexts = {
            101 + i: Context(RUN, 101 + i, {"partition-id": i}, RecordDict(), {})
            for i in range(nodes)
        }
        self._replies: dict[str, Message] = {}

    def set_run(self, run: RunType) -> None:
        raise NotImplementedError

    @property
    def run(self) -> RunType:
        return EmptyRun(RUN)

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return [self._answer(stamp(m, f"m{i}")) for i, m in enumerate(messages)]

    def _answer(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            return make_failure(message, str(error))
