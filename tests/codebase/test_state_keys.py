"""The keys of the registry's state stand in one module, and nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmore.coordinator.store import state_keys

ROOT = Path(__file__).resolve().parents[2]
KEYS = {name: value for name, value in vars(state_keys).items() if name.isupper()}
MODULES = sorted(
    path
    for package in ("client", "coordinator", "sims", "strategies")
    for path in (ROOT / package).rglob("*.py")
    if "_state(" in path.read_text(encoding="utf-8")
)


def keys_of(source: str) -> Iterator[tuple[int, ast.expr]]:
    """The line and the key of every call of `get_state` and `set_state`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("get_state", "set_state"):
            yield call.lineno, call.args[0]


def is_known(key: ast.expr) -> bool:
    """Whether a key is one of the constants of `state_keys`."""
    name = key.attr if isinstance(key, ast.Attribute) else getattr(key, "id", "")
    return name in KEYS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_key_is_a_constant_of_the_one_module(path: Path) -> None:
    found = keys_of(path.read_text(encoding="utf-8"))
    strange = [f"line {line}: {ast.unparse(key)}" for line, key in found if not is_known(key)]
    assert strange == []


def test_no_key_has_two_names() -> None:
    assert len(set(KEYS.values())) == len(KEYS)


@pytest.mark.parametrize(
    ("call", "known"),
    [
        ("registry.get_state(PHASE)", True),
        ("self._registry.set_state(state_keys.HELD, {})", True),
        ('registry.get_state("phase")', False),
        ("registry.set_state(name, 1)", False),
    ],
)
def test_the_check_sees_what_it_looks_for(call: str, known: bool) -> None:
    [(_, key)] = keys_of(call)
    assert is_known(key) == known
