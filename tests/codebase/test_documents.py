"""Documents are true: commands exist, links lead somewhere, Python examples run."""

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from fedmore.client.cli.main import app as client
from fedmore.coordinator.cli.main import app as coordinator
from fedmore.sims.cli import app as fedmore

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS: dict[str, Any] = {
    name: typer.main.get_command(app)
    for name, app in (("coordinator", coordinator), ("client", client), ("fedmore", fedmore))
}
ROOMS = {path.parent.name for path in ROOT.glob("*/README.md")}
"""The folders at the root that have a README: packages, docs, tests, docker."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
_TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
_RUN = ("docker", "compose", "run", "--rm")


def shell_lines(text: str) -> Iterator[str]:
    """Commands in the fenced blocks that are shell, or that say nothing of what they are."""
    for language, block in _FENCE.findall(text):
        if language in ("", "sh", "bash", "shell", "console"):
            yield from block.replace("\\\n", " ").splitlines()


def words(line: str) -> list[str]:
    """A command's words; none for a line that is not one of ours."""
    try:
        parts = shlex.split(line, comments=True)
    except ValueError:  # prose or a drawing
        return []
    if tuple(parts[: len(_RUN)]) == _RUN:
        parts = parts[len(_RUN) :]
    while parts and re.match(r"[A-Z_]+=", parts[0]):
        parts = parts[1:]
    if not parts or (len(parts) > 1 and parts[1] in ("|", "=")):
        return []
    return [parts[0].removeprefix(".venv/bin/"), *parts[1:]]


def check(program: str, arguments: list[str]) -> None:
    """Parse as the program would; raises click's `UsageError`."""
    command: Any = PROGRAMS[program]
    rest = arguments
    while hasattr(command, "commands"):
        default = getattr(command, "default", None)
        if default and rest and rest[0] not in command.commands:
            rest = [default, *rest]
        if not rest or rest[0] not in command.commands:
            raise click.UsageError(f"{program} has no command {' '.join(rest[:1])!r}")
        command, rest = command.commands[rest[0]], rest[1:]
    if "--help" not in rest:
        command.make_context(command.name, list(rest))


def our_commands(documents: dict[Path, str]) -> list[tuple[Path, list[str]]]:
    return [
        (path, parts)
        for path, text in documents.items()
        for line in shell_lines(text)
        if (parts := words(line)) and parts[0] in (*PROGRAMS, "make")
    ]


def test_every_command_of_ours_in_a_document_exists(documents: dict[Path, str]) -> None:
    targets = set(_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    found = our_commands(documents)
    wrong = []
    for path, (program, *arguments) in found:
        if program == "make":
            wrong += [f"{path}: make {a}" for a in arguments if "=" not in a and a not in targets]
            continue
        try:
            check(program, arguments)
        except click.UsageError as error:
            wrong.append(f"{path}: {program} {' '.join(arguments)}: {error.format_message()}")
    assert wrong == []
    assert len(found) > 20
    assert {Path("README.md"), Path("docs/federation.md")} <= {path for path, _ in found}


@pytest.mark.parametrize(
    "line",
    ["coordinator begin hub", "client join", "client join a.json --data x --gpu none"],
)
def test_a_wrong_command_is_found(line: str) -> None:
    program, *arguments = words(line)
    with pytest.raises(click.UsageError):
        check(program, arguments)


def test_the_two_commands_stand_at_the_top_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = _FENCE.search(text)
    assert first is not None
    assert [words(line)[:2] for line in first[2].splitlines()] == [
        ["make", "demo"],
        ["make", "test"],
    ]
    assert text.count("\n", 0, first.start()) < 20


def sentences(text: str) -> Iterator[list[str]]:
    """The words of every sentence; tables, headings, pictures and fenced blocks are none."""
    prose = re.sub(r"^(?:\||#|!\[).*$", "", _FENCE.sub("", text), flags=re.MULTILINE)
    prose = re.sub(r"`[^`]*`", "code", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose))
    for paragraph in re.split(r"\n\s*\n|^- ", prose, flags=re.MULTILINE):
        for sentence in re.split(r"(?<=[.!?])[*_)]*\s", paragraph):
            if sentence.strip():
                yield sentence.split()


def test_the_readme_is_short_and_so_are_its_sentences() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    lengths = [len(sentence) for sentence in sentences(text)]
    assert len(lengths) > 20
    assert sum(lengths) / len(lengths) < 20


def test_sentences_are_told_apart() -> None:
    text = "# Title here\n\nOne two, `a b c`. Three!\n- **Four.** [Five six](a.md)\n\n| x |\n"
    assert [len(sentence) for sentence in sentences(text)] == [3, 1, 1, 2]


def test_decisions_have_one_form_and_the_index_lists_them_all() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    records = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    assert re.findall(r"\]\((\d{4}-[^)]+\.md)\)", index) == records
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    for name in records:
        text = (folder / name).read_text(encoding="utf-8")
        assert re.match(r"# .+\n\n20\d\d-\d\d-\d\d\n", text), name
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == ["Context", "Decision", "Alternatives"], name


def test_every_link_leads_to_a_file(documents: dict[Path, str]) -> None:
    missing = [
        f"{path}: {link}"
        for path, text in documents.items()
        for link in _LINK.findall(_FENCE.sub("", text))
        if "://" not in link and not (ROOT / path.parent / link).exists()
    ]
    assert missing == []


def paths(text: str) -> set[str]:
    """Files and folders of the repository, and modules, that a document names in code quotes."""
    named = re.findall(r"`([\w./-]+)`", text)
    ours = {path.rstrip("/") for path in named if path.split("/")[0] in ROOMS and "/" in path}
    return ours | {path for path in named if re.fullmatch(r"test_\w+\.py", path)}


def test_every_path_named_in_a_document_is_there(
    documents: dict[Path, str], files: list[Path]
) -> None:
    names = {path.name for path in files}
    missing = [
        f"{document}: {path}"
        for document, text in documents.items()
        if document.name != "CHANGELOG.md"
        for path in paths(text)
        if not (ROOT / path).exists() and path not in names
    ]
    assert missing == []


def test_a_path_is_found_in_a_document() -> None:
    text = "`client/gone.py`, `tests/hostile/`, `test_gone.py`, `make test`, `stages.0.rounds`"
    assert paths(text) == {"client/gone.py", "tests/hostile", "test_gone.py"}


def test_python_examples_run(texts: dict[Path, str]) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    examples = [p for p, t in texts.items() if re.search(r"^\s*>>> ", t, re.MULTILINE)]
    examples = [path for path in examples if path.parts[0] != "tests"]
    parser, finder = doctest.DocTestParser(), doctest.DocTestFinder()
    for path in examples:
        if path.suffix == ".md":
            runner.run(parser.get_doctest(texts[path], {}, str(path), str(path), 0))
        elif path.suffix == ".py":
            name = "fedmore." + ".".join(path.with_suffix("").parts)
            for test in finder.find(__import__(name, fromlist=["_"])):
                runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert Path("docs/how-it-works.md") in examples
