"""Outcomes of goals: met or not met if the whole 95 % interval says so, undecided otherwise."""

from collections.abc import Iterable
from typing import Literal

from fedmore.experts.scoring.intervals import Interval

Outcome = Literal["met", "not met", "undecided", "not measured"]


def at_most(found: Interval | None, limit: float) -> Outcome:
    """Judge whether an interval is at most `limit`; undecided without an interval."""
    if found is None or found[0] <= limit < found[1]:
        return "undecided"
    return "met" if found[1] <= limit else "not met"


def at_least(found: Interval | None, limit: float) -> Outcome:
    """Judge whether an interval is at least `limit`; undecided without an interval."""
    return at_most((-found[1], -found[0]) if found else None, -limit)


def all_of(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of a goal that all must meet: the worst."""
    return _first(("not met", "undecided", "met"), outcomes)


def any_of(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of a goal that one must meet: the best."""
    return _first(("met", "undecided", "not met"), outcomes)


def _first(order: tuple[Outcome, ...], outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    return next((outcome for outcome in order if outcome in found), "not measured")
