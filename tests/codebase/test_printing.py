"""What peers say reaches no terminal by another way than `protos/system/terminal.py`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "protos/system/terminal.py": "the boundary itself",
    "coordinator/cli/generate.py": "a text of the mixture goes into a file or pipe as it is",
}
"""Modules that write by themselves, and why."""

MODULES = [
    path
    for folder in ("client", "coordinator", "protos", "strategies", "experts")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.relative_to(ROOT).as_posix() not in ALLOWED and "_pb2" not in path.stem
]


def writes(call: ast.Call) -> bool:
    """Whether a call makes an unsafe console, or prints."""
    name = ast.unparse(call.func)
    return name in {"Console", "typer.echo", "typer.secho", "print", "click.echo"} or (
        name.startswith(("sys.stdout.", "sys.stderr.")) and name.endswith(".write")
    )


def printing(path: Path) -> list[str]:
    """The places of a module that print by themselves."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [f"{path.relative_to(ROOT)}:{call.lineno}" for call in calls if writes(call)]


def test_modules_print_through_the_boundary_alone() -> None:
    assert len(MODULES) > 200
    assert [place for path in MODULES for place in printing(path)] == []


@pytest.mark.parametrize("path", ALLOWED)
def test_what_is_allowed_to_is_there(path: str) -> None:
    assert (ROOT / path).is_file()
