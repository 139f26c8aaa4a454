"""Decides which files below a folder are an owner's text, and which are left out.

Files that are left out are counted in the notes, so that nothing is dropped in silence. A folder
that cannot be listed and a broken link are errors, because the owner expects text there.
"""

import errno
import os
import stat
from pathlib import Path

from fedmore.experts.errors import DataError
from fedmore.experts.reading.notes import Notes

PLAIN = (".txt", ".md")
LINES = (".jsonl", ".ndjson", ".json")
SEPARATED = (".csv", ".tsv")
PARQUET = ".parquet"
KNOWN = (*PLAIN, *LINES, *SEPARATED, PARQUET)
PACKED = ".gz"

MACHINES = ("__pycache__", "__MACOSX", "node_modules", "site-packages")
"""Names of folders whose files programs make."""

MARKS = {
    "pyvenv.cfg": "a virtual environment",
    "CACHEDIR.TAG": "a cache",
    "trainer_state.json": "a checkpoint",
    "adapter_config.json": "a checkpoint",
}
"""Files that mark a program's own folder, and the name of its kind."""

WEIGHTS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth")
"""Files that mark the folder of a model's checkpoint."""


def kind_of(file: Path) -> str:
    """The suffix that selects the reader, in lower case and without .gz; empty if unknown."""
    name = file.name.lower()
    packed = name.endswith(PACKED)
    suffix = Path(name.removesuffix(PACKED)).suffix
    known = suffix in KNOWN and not (packed and suffix == PARQUET)
    return suffix if known else ""


def find_files(root: Path, notes: Notes) -> list[Path]:
    """List files of known kinds below `root`, in order of path, following a linked folder once."""
    found: list[Path] = []
    seen = {_identity(root)}
    for place, folders, names in os.walk(root, followlinks=True, onerror=_unlisted):
        folder = Path(place)
        folders[:] = [name for name in sorted(folders) if _enters(folder / name, seen, notes)]
        found += [folder / name for name in names if _is_text(folder / name, notes)]
    return sorted(found)


def _enters(folder: Path, seen: set[tuple[int, int]], notes: Notes) -> bool:
    """Whether the walk should enter `folder`."""
    why = _program_of(folder)
    if folder.name.startswith("."):
        notes.add("hidden files and folders left out", folder.name)
    elif why:
        notes.add(f"left out as {why}", folder.name)
    elif (identity := _identity(folder)) in seen:
        notes.add("folders linked a second time left out", folder.name)
    else:
        seen.add(identity)
        return True
    return False


def _program_of(folder: Path) -> str:
    """The kind of program that made this folder; empty if it is an owner's."""
    if folder.name in MACHINES:
        return "a program's own files"
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return ""  # the walk will list it again and raise the error
    marks = [MARKS[name] for name in names if name in MARKS]
    if any(name.lower().endswith(WEIGHTS) for name in names):
        marks.append("a checkpoint")
    return marks[0] if marks else ""


def _is_text(file: Path, notes: Notes) -> bool:
    """Whether this is a file of a known kind."""
    if file.name.startswith("."):
        notes.add("hidden files and folders left out", file.name)
    elif not kind_of(file):
        notes.add("files of other kinds left out", file.name)
    elif not stat.S_ISREG(_stat(file).st_mode):
        notes.add("left out as no regular files", file.name)
    else:
        return True
    return False


def _identity(folder: Path) -> tuple[int, int]:
    found = _stat(folder)
    return found.st_dev, found.st_ino


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ELOOP)  # it was listed, so it is a link
        what = "a link that leads nowhere" if missing else "cannot be read"
        raise DataError(f"{path}: {what}: {error.strerror}; mend it or take it out") from error


def _unlisted(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: the folder cannot be listed: {error.strerror}; "
        "allow it, or move it out of the text"
    ) from error
