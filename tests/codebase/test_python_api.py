"""The promised Python API: what is documented exists, what is exported is documented, lazily."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from quick_help import help_answers_at_once

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
EXPORTING = ("client", "coordinator", "experts", "sims", "strategies")
HEAVY = ("torch", "transformers", "flwr", "mlflow", "numpy", "sqlalchemy", "pydantic", "grpc")


def documented(package: str) -> list[str]:
    """The names in the first column of a package's table."""
    _, found, rest = PAGE.partition(f"\n## `fedmore.{package}`\n")
    assert found, f"the page has no section on fedmore.{package}"
    return re.findall(r"^\| `(\w+)", rest.partition("\n## ")[0], re.MULTILINE)


def tree(package: str) -> ast.Module:
    return ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))


def test_the_page_has_a_section_for_each_package_and_no_other() -> None:
    assert sorted(re.findall(r"^## `fedmore\.(\w+)`$", PAGE, re.MULTILINE)) == sorted(EXPORTING)


@pytest.mark.parametrize("package", EXPORTING)
def test_what_is_documented_is_what_is_exported(package: str) -> None:
    module: Any = import_module(f"fedmore.{package}")
    assert sorted(documented(package)) == sorted(module.__all__) == dir(module)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
        assert getattr(module, name).__doc__


@pytest.mark.parametrize("package", EXPORTING)
def test_what_is_not_exported_is_an_error(package: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing_like_it'"):
        _ = import_module(f"fedmore.{package}").nothing_like_it


@pytest.mark.parametrize("package", EXPORTING)
def test_type_checkers_are_told_of_what_is_imported(package: str) -> None:
    """An `__init__` is a docstring, imports for type checkers, lazy imports, and `__all__`."""
    docstring, typing, choice, exported = tree(package).body
    assert ast.get_docstring(tree(package))
    assert isinstance(docstring, ast.Expr)
    assert isinstance(typing, ast.ImportFrom)
    assert isinstance(choice, ast.If)
    assert isinstance(exported, ast.Assign)
    told = {
        alias.name: line.module
        for line in choice.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    homes = next(line for line in choice.orelse if isinstance(line, ast.Assign))
    imported = ast.literal_eval(homes.value)
    assert told == {name: f"fedmore.{package}.{home}" for name, home in imported.items()}
    assert list(imported) == ast.literal_eval(exported.value)


STEPS = {
    "the packages": "; ".join(f"import fedmore.{package}" for package in EXPORTING),
    "names that need little": (
        "from fedmore.experts import FedmoreError; from fedmore.client import read_policy; "
        "from fedmore.coordinator import AssembleOptions, open_federation; "
        "from fedmore.sims import scenario, simulate; scenario('smoke')"
    ),
    "a name that needs torch": "from fedmore.experts import Router",
}


def test_nothing_heavy_comes_before_it_is_needed() -> None:
    report = "print(*{m.split('.')[0] for m in sys.modules})"
    script = "\n".join(["import sys", *(f"{code}\n{report}" for code in STEPS.values())])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / ".editable")},
    )  # fmt: skip
    first, then, last = (set(line.split()) for line in done.stdout.splitlines())
    assert first & set(HEAVY) == set()
    assert "torch" not in then
    assert "transformers" not in then
    assert "torch" in last


@pytest.mark.parametrize("package", ["client", "coordinator"])
def test_a_program_runs_as_a_module(package: str) -> None:
    assert help_answers_at_once([sys.executable, "-m", f"fedmore.{package}"])
