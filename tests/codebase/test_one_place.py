"""What is done in one place is done nowhere else."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imports(*names: str) -> Callable[[ast.AST], bool]:
    """Whether a node imports one of these."""

    def found(node: ast.AST) -> bool:
        return isinstance(node, ast.ImportFrom) and any(n.name in names for n in node.names)

    return found


def is_a_grid(node: ast.AST) -> bool:
    """Whether a node is a class that implements all of Flower's Grid by itself."""
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    return any(isinstance(base, ast.Name) and base.id == "Grid" for base in bases)


PLACES = {
    "a grid that wraps another is a DelegatingGrid": (
        is_a_grid,
        ("client", "coordinator", "sims", "strategies"),
        {
            "strategies/rounds/delegating_grid.py",
            "coordinator/tasks/grid.py",
            "sims/studies/crowd/owners.py",
        },
    ),
    "a router is built by the factory": (
        imports("make_router", "domain_router", "arrow_router", "UniformRouter"),
        ("coordinator", "sims/studies/routing"),
        {"coordinator/mixture/router_factory.py"},
    ),
    "the tracker and the observer of a plan are made where it is put together": (
        imports("MlflowTracker", "make_observer", "run_stages"),
        ("coordinator", "sims"),
        {"coordinator/run/plan_runner.py"},
    ),
    "the metrics of a training answer are read by the one reader": (
        imports("read_metrics"),
        ("coordinator", "strategies"),
        {"strategies/rounds/replies.py"},
    ),
}


@pytest.mark.parametrize("rule", PLACES)
def test_it_is_done_in_one_place(rule: str) -> None:
    does_it, folders, places = PLACES[rule]
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if any(map(does_it, ast.walk(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == places
