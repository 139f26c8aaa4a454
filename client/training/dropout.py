"""Dropout of a base, drawn from a task's seed, so that the same task gives the same bits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_GENERATOR = threading.Lock()
"""Torch's generator belongs to the process, and several clients may train in one."""


class Dropout:
    """What is drawn in a training step depends on `seed` and the step alone."""

    def __init__(self, model: Any, seed: int) -> None:
        self._seed = seed
        config = model.config.to_dict() if hasattr(model, "config") else {}
        rates = [value for key, value in config.items() if "drop" in key]
        self._draws = any(isinstance(rate, float) and rate > 0 for rate in rates)
        device = getattr(model, "device", torch.device("cpu"))
        self._devices = [device] if device.type == "cuda" else []

    @contextmanager
    def drawn(self, step: int) -> Iterator[None]:
        """The forward pass of a step (from 0); alone in the process if the base has dropout."""
        if not self._draws:
            yield
            return
        with _GENERATOR, torch.random.fork_rng(devices=self._devices):
            torch.manual_seed((self._seed + step) % (1 << 63))
            yield
