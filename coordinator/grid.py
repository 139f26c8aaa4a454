"""Flower's Grid over a Mailbox: what a strategy talks to, in every engine of ours."""

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.coordinator.mailbox import Mailbox
from fedmore.protos.flower import RUN, EmptyRun, RunType, identify


class MailboxGrid(Grid):
    """Waits for replies, never for ever: a node that left, or `timeout`, gives an Error reply.

    Replies come in the order of the messages, so an aggregate does not depend on who was faster.
    """

    def __init__(self, mailbox: Mailbox, run_id: int = RUN) -> None:
        self.mailbox = mailbox
        self._run = EmptyRun(run_id)
        identify(run_id)

    def set_run(self, run: RunType) -> None:
        """Replace the run."""
        self._run = run
        identify(run.run_id)

    @property
    def run(self) -> RunType:
        """The run; a federation has one."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's older way of `Message(content, dst_node_id, message_type)`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are there, sorted."""
        return self.mailbox.nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; each is stamped with the id that is returned for it."""
        return [self.mailbox.push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come by now; each is given once."""
        return self.mailbox.collect(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """One reply for each message; an Error for what was not answered in `timeout` seconds."""
        task_ids = list(self.push_messages(messages))
        if not self.mailbox.wait(task_ids, timeout):
            for task_id in task_ids:
                self.mailbox.withdraw(task_id, f"no reply within {timeout:g} s")
        return self.pull_messages(task_ids)
