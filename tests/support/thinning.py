"""Grids of cases of which the gate runs some, and `make slow` the others."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rarer_slow(cases: Iterable[Any], often: Collection[Any]) -> list[Any]:
    """The cases as values of one parameter; those that are not in `often` are slow tests."""
    return [pytest.param(case, marks=() if case in often else pytest.mark.slow) for case in cases]
