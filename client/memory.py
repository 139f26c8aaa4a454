"""What a client remembers of an expert between rounds and runs: one file per expert."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedmore.experts.errors import DataError
from fedmore.experts.factors import Factors, from_state, to_state

SUFFIX = ".component.safetensors"


@dataclass(frozen=True)
class Remembered:
    """The mirrored component, what error feedback still owes, and the last answer.

    `task` names the task that the last answer was for, so that doing it again gives the same bytes.
    """

    component: Factors
    residual: Factors
    updates: int
    task: str
    answer: bytes
    metrics: Mapping[str, float | int]


class Memory:
    """Files below `directory`, each replaced atomically."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _file(self, expert: str) -> Path:
        return self.directory / f"{expert}{SUFFIX}"

    def updates(self) -> dict[str, int]:
        """How many updates each remembered expert holds."""
        files = sorted(self.directory.glob(f"*{SUFFIX}"))
        names = [file.name.removesuffix(SUFFIX) for file in files]
        return {name: entry.updates for name in names if (entry := self.read(name))}

    def read(self, expert: str) -> Remembered | None:
        """What is remembered of an expert; None where there is nothing."""
        file = self._file(expert)
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as opened:
                meta: dict[str, str] = opened.metadata()
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return Remembered(
                _part(tensors, "component."),
                _part(tensors, "residual."),
                int(meta["updates"]),
                meta["task"],
                tensors["answer"].numpy().tobytes(),
                json.loads(meta["metrics"]),
            )
        except Exception as error:  # safetensors raises its own type, not exported
            raise DataError(f"{file}: damaged ({error}); remove it to start afresh") from error

    def write(self, expert: str, entry: Remembered) -> None:
        """Remember; a crash leaves the old file or the new one."""
        tensors = {f"component.{k}": t for k, t in to_state(entry.component).items()}
        tensors |= {f"residual.{k}": t for k, t in to_state(entry.residual).items()}
        # Not in the header, which safetensors limits to 100 MB.
        tensors["answer"] = torch.frombuffer(bytearray(entry.answer), dtype=torch.uint8)
        meta = {
            "updates": str(entry.updates),
            "task": entry.task,
            "metrics": json.dumps(dict(entry.metrics)),
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self._file(expert).with_suffix(".writing")
        save_file(tensors, temporary, meta)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(self._file(expert))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> Factors:
    return from_state(
        {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    )
