"""What a foreign app keeps between its tasks, and its last answers: on disk before they leave."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedmore.experts.errors import DataError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.system.files import private_folder, writing
from fedmore.protos.wire.payloads import Payload
from fedmore.protos.wire.records import Packed, dumps, loads, pack, unpack

ANSWERS = 16
"""So many answers are kept: those of tasks that may be handed out again after a restart."""


@dataclass(frozen=True)
class Kept:
    """One task: what the app remembered after it, its answer, and the files that hold both."""

    task_id: str
    state: bytes
    answer: bytes
    blobs: frozenset[str]


class Memory:
    """What the app keeps and answered, below `folder`: an index for each of the last tasks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def state(self) -> RecordDict:
        """What the app remembers; empty before its first task."""
        files = self._files()
        return self._load(self._read(files[-1]).state) if files else RecordDict()

    def answer(self, task_id: str) -> RecordDict | None:
        """What was answered to a task; None if that is not known."""
        entries = map(self._read, self._files())
        found = next((entry for entry in entries if entry.task_id == task_id), None)
        return None if found is None else self._load(found.answer)

    def write(self, task_id: str, state: RecordDict, answer: RecordDict) -> None:
        """Keep both, or neither if the write is cut short; keeps the last `ANSWERS` answers."""
        private_folder(self._folder)
        parts = [pack(state), pack(answer)]
        for part in parts:
            self._write_blobs(part)
        files = self._files()
        number = int(files[-1].stem) + 1 if files else 0
        entry = ConfigRecord(
            {
                "task": task_id,
                "state": parts[0].content.SerializeToString(),
                "answer": parts[1].content.SerializeToString(),
                "blobs": sorted({*parts[0].blobs, *parts[1].blobs}),
            }
        )
        replace(self._folder / f"{number:012d}.kept", dumps(RecordDict({"kept": entry})))
        self._forget(files[: max(0, len(files) + 1 - ANSWERS)])

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.kept"))

    def _read(self, path: Path) -> Kept:
        try:
            entry: Any = loads(path.read_bytes())["kept"]
            return Kept(entry["task"], entry["state"], entry["answer"], frozenset(entry["blobs"]))
        except (WireError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: damaged ({error}); remove {self._folder} to start the app afresh"
            ) from error

    def _load(self, content: bytes) -> RecordDict:
        return unpack(pb.Content.FromString(content), lambda digest, _: self._folder / digest)

    def _write_blobs(self, part: Packed) -> None:
        for digest, payload in part.blobs.items():
            if not (self._folder / digest).is_file():
                replace(self._folder / digest, payload)

    def _forget(self, files: Iterable[Path]) -> None:
        for file in files:
            file.unlink()
        named = frozenset[str]().union(*(self._read(file).blobs for file in self._files()))
        for path in self._folder.iterdir():
            if path.suffix != ".kept" and path.name not in named:
                path.unlink()


def replace(path: Path, data: Payload) -> None:
    """Write a file; a crash leaves the old one, or none, or the new one."""
    with writing(path) as file:
        if isinstance(data, Path):
            with data.open("rb") as source:
                shutil.copyfileobj(source, file)
        else:
            file.write(data)
