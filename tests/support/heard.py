"""Replies that a client says, for a test that waits for them."""

import threading

from fedmore.protos import federation_pb2 as pb


class Heard:
    """Hears replies in any thread."""

    def __init__(self) -> None:
        self.said: list[pb.Reply] = []
        self.heard = threading.Condition()

    def say(self, reply: pb.Reply) -> None:
        """Hear one more reply."""
        with self.heard:
            self.said.append(reply)
            self.heard.notify_all()

    def wait(self, count: int) -> list[pb.Reply]:
        """All replies, once there are `count` of them."""
        with self.heard:
            assert self.heard.wait_for(lambda: len(self.said) >= count, 60)
        return self.said
