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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_prints_through_the_boundary_alone(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [f"{path.name}:{call.lineno}" for call in calls if writes(call)] == []


@pytest.mark.parametrize("path", ALLOWED)
def test_what_is_allowed_to_is_there(path: str) -> None:
    assert (ROOT / path).is_file()
