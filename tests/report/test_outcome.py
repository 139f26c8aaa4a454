"""A goal is met or missed if the whole interval says so."""

import pytest

from fedmore.sims.report.outcome import all_of, any_of, at_least, at_most


@pytest.mark.parametrize(
    ("found", "most", "least"),
    [
        ((0.1, 0.4), "met", "not met"),
        ((0.6, 0.9), "not met", "met"),
        ((0.4, 0.6), "undecided", "undecided"),
        ((0.5, 0.6), "undecided", "met"),
        ((0.4, 0.5), "met", "undecided"),
        ((0.5, 0.5), "met", "met"),
        (None, "undecided", "undecided"),
    ],
)
def test_one_interval_against_a_limit(found, most, least):
    assert at_most(found, 0.5) == most
    assert at_least(found, 0.5) == least


@pytest.mark.parametrize(
    ("found", "every", "some"),
    [
        (["met", "met"], "met", "met"),
        (["met", "undecided"], "undecided", "met"),
        (["met", "not met", "undecided"], "not met", "met"),
        (["undecided", "not met"], "not met", "undecided"),
        (["not met", "not met"], "not met", "not met"),
        ([], "not measured", "not measured"),
    ],
)
def test_several_together(found, every, some):
    assert all_of(found) == every
    assert any_of(found) == some
