"""Any bytes decode, or raise an error of the project's own."""

import runpy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thinning import examples

FUZZ = runpy.run_path(str(Path(__file__).with_name("targets.py")))
SEEDS = FUZZ["seeds"]()
NAMES = sorted(FUZZ["TARGETS"])
QUICK = settings(
    max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@st.composite
def damaged(draw, seed):
    """A valid input with bytes changed, cut out, put in or doubled."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "double"]))
        if kind == "flip" and at < len(data):
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        else:
            data[at:at] = data[at : at + 40]
    return bytes(data)


def test_every_target_has_a_valid_seed():
    assert sorted(SEEDS) == NAMES
    for name in NAMES:
        FUZZ["TARGETS"][name](SEEDS[name])


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(data=st.binary(max_size=400))
def test_any_bytes(name, data):
    FUZZ["try_one"](name, data)


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(data=st.data())
def test_damaged_bytes(name, data):
    FUZZ["try_one"](name, data.draw(damaged(SEEDS[name])))
