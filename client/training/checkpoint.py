"""Checkpoints of a task's training on disk, so that a killed client goes on from there.

A checkpoint is good for one call of `fedmore.client.training.expert.train` and no other: it carries
the digest of everything that the result depends on (weights of the base, start, frozen change,
text, schedule). It holds factors, AdamW's moments and the losses so far, exactly; so the factors at
the end are the same bit for bit, however often and wherever the training was cut.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fedmore.client.state.memory import save
from fedmore.protos.wire.payloads import digest_of_payload, payload_of
from fedmore.strategies.tasks.base import Request

INTERVAL_S = 30.0
SHARE = 0.05
"""Largest part of the time that goes into checkpoints; slow disks get them more rarely."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """`step` steps are done; tensors by name, and every step's loss."""

    step: int
    losses: list[float]
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoint of one task, in `file`; None keeps none."""

    def __init__(
        self,
        file: Path | None,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        share: float = SHARE,
    ) -> None:
        self._file = file
        self._interval_s = interval_s
        self._share = share
        self._clock = clock
        self._cost = 0.0
        self._latest = clock()

    def due(self) -> bool:
        """Whether the interval has passed since the last one."""
        wait = max(self._interval_s, self._cost / self._share)
        return self._file is not None and self._clock() - self._latest >= wait

    def write(self, key: str, position: Position) -> None:
        """Write a checkpoint in place of the one before."""
        if self._file is None:
            return
        began = self._clock()
        meta = {
            "key": key, "step": str(position.step), "losses": json.dumps(position.losses),
        }  # fmt: skip
        # Not waiting for the disk is several times faster; what a power failure spoils is noticed.
        save(self._file, position.tensors, meta, lasting=False)
        self._latest = self._clock()
        self._cost = self._latest - began

    def read(self, key: str) -> Position | None:
        """The checkpoint for `key`; None if there is none, or one of another task.

        A damaged checkpoint counts as missing: training restarts and gives the same result.
        """
        if self._file is None or not self._file.is_file():
            return None
        try:
            with safe_open(self._file, "pt") as opened:
                meta: dict[str, str] = opened.metadata()
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if meta["key"] != key:
                return None
            losses = [float(loss) for loss in json.loads(meta["losses"])]
            return Position(int(meta["step"]), losses, tensors)
        except Exception as error:  # safetensors raises its own type, not exported
            log.warning("%s: damaged (%s); the task starts over", self._file, error)
            return None

    def remove(self) -> None:
        """The task is done and remembered."""
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                self._file.unlink()


def key_of(parts: Iterable[str | Tensor]) -> str:
    """The digest of what a training depends on."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else _bytes(part)
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def key_of_task(request: Request[Any]) -> str:
    """What tells a task from every other: its settings, and the state that it brings.

    The same round may be asked for again with other settings, or after an owner's withdrawal.
    """
    parts = [repr(request.task)]
    for name, array in sorted(request.arrays.items()):
        parts += [name, array.stype, digest_of_payload(payload_of(array))]
    return key_of(parts)


def _bytes(tensor: Tensor) -> memoryview:
    array: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(array)
