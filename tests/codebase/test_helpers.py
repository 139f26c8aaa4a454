"""What several tests use has one home, `tests/support` or a conftest, and is written once."""

import ast
from collections import defaultdict
from pathlib import Path

SHORT = 2
"""Lines of a body that may be written twice: a nested function, a fixture that hands on."""


def body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The code of a function in one form, without its docstring."""
    documented = ast.get_docstring(function) is not None
    return "\n".join(ast.unparse(part) for part in function.body[documented:])


def helpers(tests: Path) -> dict[str, list[str]]:
    """Where each body stands of a function that is no test."""
    found = defaultdict(list)
    for path in sorted(tests.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef
            ) and not node.name.startswith("test_"):
                found[body(node)].append(f"{path.relative_to(tests)}:{node.name}")
    return found


def written_twice(tests: Path) -> list[list[str]]:
    long = {code: places for code, places in helpers(tests).items() if code.count("\n") >= SHORT}
    return [places for places in long.values() if len(places) > 1]


def test_no_helper_is_written_twice(root: Path) -> None:
    assert written_twice(root / "tests") == []


def test_a_copy_is_found(tmp_path: Path) -> None:
    code = 'def {name}():\n    """{name}"""\n    a = 1\n    a += 1\n    return a\n'
    for name in ("one", "other"):
        (tmp_path / f"{name}.py").write_text(code.format(name=name), encoding="utf-8")
    assert written_twice(tmp_path) == [["one.py:one", "other.py:other"]]
