"""What a client wrote for a task, and a client that is killed in the middle of one."""

import functools
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from fedmore.client.training import expert_work, progress
from fedmore.client.training.checkpoint import Checkpoints


def change_bytes(content: RecordDict) -> bytes:
    """The encoded update of a reply."""
    return bytes(content.array_records["update"]["change"].data)


def folder(context: Context) -> Path:
    """Where this client keeps what it remembers of the federation."""
    return Path(str(context.node_config["state"])) / f"node-{context.node_id}"


def killed_at_step(monkeypatch: pytest.MonkeyPatch, last: int) -> list[int]:
    """`KeyboardInterrupt` comes at the `last`-th step, and each has its checkpoint.

    What is returned grows: the steps that were done, also after the interruption.
    """
    steps: list[int] = []

    def report(step: int, *_: object) -> None:
        steps.append(step)
        if len(steps) == last:
            raise KeyboardInterrupt

    often = functools.partial(Checkpoints, interval_s=0, share=float("inf"))
    monkeypatch.setattr(expert_work, "Checkpoints", often)
    monkeypatch.setattr(progress, "report", report)
    return steps
