"""Strings of user interfaces, in English and translated, from two packages' catalogues.

Home Assistant has flat JSON files, one per panel; Django has compiled gettext catalogues, whose
keys are the English strings.
"""

import html
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from fedmore.sims.data.items import Item, clean
from fedmore.sims.data.packages import fetch

_TAG = re.compile(r"<[^>]{0,200}>")
_SPACE = re.compile(r"\s+")
_PLURAL = re.compile(r"\{\s*\w+\s*,\s*(plural|select)")
_TRANSLATIONS = "hass_frontend/static/translations"

Pair = tuple[str, str, str]  # group, translation, English


def galician() -> list[Item]:
    """Galician strings."""
    return translated("gl")


def estonian() -> list[Item]:
    """Estonian strings."""
    return translated("et")


def spanish() -> list[Item]:
    """Spanish strings."""
    return translated("es")


def translated(language: str) -> list[Item]:
    """Strings of a language, without those that are still in English."""
    pairs = [(group, tidy(there), tidy(en)) for group, there, en in catalogue(language)]
    return [Item(there, group, group) for group, there, en in pairs if there and _differ(there, en)]


def plain() -> list[Item]:
    """The English strings, sorted into the same groups as the translated ones."""
    strings = [(group, tidy(en)) for group, _, en in catalogue("gl")]
    return [Item(en, group, group) for group, en in strings if en]


def catalogue(language: str) -> Iterator[Pair]:
    """Group, translation and English of every string; either may be empty."""
    yield from home_assistant(fetch("home-assistant-frontend") / _TRANSLATIONS, language)
    yield from django(fetch("django"), language)


def home_assistant(root: Path, language: str) -> Iterator[Pair]:
    """Strings of the panels; a group is a section of a panel, such as `ui.panel.config.tag`."""
    for folder in sorted({path.parent for path in root.rglob("*.json")}):
        english, other = _leaves(folder, "en"), _leaves(folder, language)
        for key in sorted({*english, *other}):
            parts = key.split(".")
            section = ".".join(parts[: 4 if parts[1:2] == ["panel"] else 3])
            yield f"home-assistant/{section}", other.get(key, ""), english.get(key, "")


def django(root: Path, language: str) -> Iterator[Pair]:
    """Strings of Django's applications; a group is a catalogue."""
    for path in sorted(root.rglob(f"{language}/LC_MESSAGES/*.mo")):
        group = "/".join(["django", *path.relative_to(root).parts[1:-4], path.stem])
        for english, other in sorted(read_mo(path.read_bytes()).items()):
            yield group, other, english


def read_mo(data: bytes) -> dict[str, str]:
    """Singular strings of a compiled gettext catalogue (GNU gettext manual, section 10.3)."""
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    count, keys, values = struct.unpack(f"{order}3I", data[8:20])
    found = {}
    for index in range(count):
        key = _mo_string(data, order, keys + 8 * index).split("\x04")[-1]
        if key:  # the empty key has the catalogue's header
            found[key] = _mo_string(data, order, values + 8 * index)
    return found


def tidy(text: str) -> str:
    """Reduce to one line without markup; empty for plural rules and for non-phrases."""
    text = clean(_SPACE.sub(" ", _TAG.sub("", html.unescape(text)))).strip()
    phrase = len(text) >= 16 and text.count(" ") >= 2 and not _PLURAL.search(text)
    return text if phrase else ""


def _differ(one: str, other: str) -> bool:
    return one.casefold() != other.casefold()


def _leaves(folder: Path, language: str) -> dict[str, str]:
    leaves: dict[str, str] = {}
    for path in sorted(folder.glob(f"{language}-*.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        leaves.update({key: value for key, value in table.items() if isinstance(value, str)})
    return leaves


def _mo_string(data: bytes, order: str, at: int) -> str:
    length, start = struct.unpack(f"{order}2I", data[at : at + 8])
    text: bytes = data[start : start + length]
    return text.split(b"\x00")[0].decode("utf-8")
