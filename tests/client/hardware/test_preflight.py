import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedmore.client.cli.main import app
from fedmore.client.hardware.memory_estimate import (
    BaseSize,
    Batch,
    break_even,
    fixed_bytes,
    full_bytes,
    highest_rank,
    rank_bytes,
    rank_limit,
)
from fedmore.client.hardware.preflight import preflight
from fedmore.experts.errors import BaseError, DeviceError
from fedmore.experts.spec import TargetModule

SIZE = BaseSize(1_000_000, 4, 64, 176, 6, 257)
SITES = (TargetModule("a", 176, 64), TargetModule("b", 64, 176))
BATCH = Batch(4, 128)


def test_a_rank_costs_sixteen_bytes_a_number_and_what_is_kept() -> None:
    kept = (176 + 1 + 64 + 1) * 4
    assert rank_bytes(SIZE, Batch(1, 1), SITES) == 2 * (176 + 64) * 16 + kept


def test_a_full_size_matrix_costs_what_its_numbers_do() -> None:
    numbers = 2 * 176 * 64
    assert full_bytes(SIZE, SITES) == numbers * (16 + 12)
    assert full_bytes(SIZE, SITES, 10) == numbers * (10 + 12)
    half = BaseSize(1_000_000, 2, 64, 176, 6, 257)
    assert full_bytes(half, SITES) == numbers * (16 + 12 + 2)


@given(st.integers(0, 2**34))
def test_the_highest_rank_fits_and_one_more_does_not(free: int) -> None:
    rank = highest_rank(SIZE, BATCH, SITES, free)
    fixed, each = fixed_bytes(SIZE, BATCH), rank_bytes(SIZE, BATCH, SITES)
    assert 0 <= rank <= rank_limit(SITES) == 64
    assert rank == 0 or fixed + rank * each <= free * 0.9
    assert rank == 64 or fixed + (rank + 1) * each > free * 0.9


def test_break_even_is_where_factors_and_matrix_are_equal() -> None:
    rank = break_even(576, 1536)
    assert rank * (576 + 1536) == pytest.approx(576 * 1536)


def test_of_a_base(tiny: Path, fingerprint: str) -> None:
    found = preflight(str(tiny), cpu=True)
    assert found.base is not None
    assert found.device == "cpu"
    assert found.base.fingerprint == fingerprint
    assert found.base.expert.highest_rank == found.base.expert.rank_limit == 64
    assert found.base.adapter.rank_limit == 32
    assert found.base.break_even == pytest.approx(64 * 176 / 240)


def test_as_json_and_as_text(tiny: Path, fingerprint: str) -> None:
    arguments = ["preflight", "--cpu", "--base", str(tiny)]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["base"]["fingerprint"] == fingerprint
    assert found["machine"]["cores"] >= 1
    text = CliRunner().invoke(app, arguments).stdout
    assert fingerprint in text
    assert "highest rank" in text


def test_without_a_base_it_says_what_is_here() -> None:
    found = json.loads(CliRunner().invoke(app, ["preflight", "--cpu", "--json"]).stdout)
    assert found["base"] is None
    assert found["free"] > 0


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=str(tmp_path)):
        preflight(str(tmp_path), cpu=True)
    with pytest.raises(DeviceError, match="--gpu 99"):
        preflight(None, gpu=99)
