"""Grids of cases, and examples of properties: the gate tries some, and `make slow` more."""

import os
from collections.abc import Collection, Iterable
from typing import Any

import pytest

TIMES = int(os.environ.get("FEDMORE_EXAMPLES", "1"))
"""How many times the gate's examples are tried."""


def rarer_slow(cases: Iterable[Any], often: Collection[Any]) -> list[Any]:
    """The cases as values of one parameter; those that are not in `often` are slow tests."""
    return [pytest.param(case, marks=() if case in often else pytest.mark.slow) for case in cases]


def examples(count: int) -> int:
    """How many examples hypothesis tries of a property for which the gate tries `count`."""
    return count * TIMES
