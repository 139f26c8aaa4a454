"""Means of shares over seeds, with 95 % Student intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedmore.sims.studies import finished


def table(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], figures: Sequence[str]
) -> list[dict[str, Any]]:
    """Make a line per case and value of `keys`, with mean, low and high end of every figure."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in ("case", *keys)), []).append(row)
    return [
        dict(zip(("case", *keys), group, strict=True))
        | {name: interval([row[name] for row in found]) for name in figures}
        for group, found in groups.items()
    ]


def interval(values: Sequence[float]) -> list[float]:
    """Mean, low and high end for numbers from 0 to 1; for one number, only that number."""
    ends = finished.interval(values) or []
    inside = np.clip([float(np.mean(values)), *ends], 0.0, 1.0)
    return [round(float(number), 4) for number in inside]
