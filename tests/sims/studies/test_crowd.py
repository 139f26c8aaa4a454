"""The study of a crowd, with twelve owners: what limits bound, and what they do not touch."""

import json

import pytest
from rich.console import Console

from fedmore.experts.errors import ConfigError
from fedmore.sims.studies.crowd.study import Size, case, run

SMALL = Size(12, 4, 1, 48, 64)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("crowd")
    path = run(out=out, quick=True, console=Console(quiet=True))
    return {row["limits"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def test_without_limits_all_is_kept_and_sent(rows):
    row = rows["none"]
    assert row["summed_rank"] == 48  # twelve of rank 4
    assert row["rank"] == row["broadcast_rank"] == 48
    assert row["aggregation_error"] < 1e-6
    assert row["broadcast_error"] == 0


@pytest.mark.parametrize("name", ["broadcast 64", "kept 128, broadcast 32"])
def test_what_is_sent_is_bounded_by_the_broadcast_rank(rows, name):
    free, row = rows["none"], rows[name]
    sent = min(int(name.rsplit(" ", 1)[1]), 48)
    assert row["broadcast_rank"] == sent
    assert row["download_bytes_per_owner"] * 48 == free["download_bytes_per_owner"] * sent
    assert row["download_bytes"] == 12 * row["download_bytes_per_owner"]


def test_one_bit_and_an_energy_share_send_less_still(rows):
    row, coarse = rows["energy 0.9, broadcast 32, sign1"], rows["kept 128, broadcast 32"]
    assert 0.05 < row["aggregation_error"] <= 0.1**0.5
    assert row["download_bytes"] < coarse["download_bytes"]
    assert row["work_beside_base"] < coarse["work_beside_base"]


def test_twice_the_owners_send_no_owner_more(rows):
    limits = "kept 128, broadcast 32"
    many = case(Size(24, *list(vars(SMALL).values())[1:]), limits, 0)
    assert many["summed_rank"] == 2 * rows[limits]["summed_rank"]
    assert many["download_bytes_per_owner"] == rows[limits]["download_bytes_per_owner"]
    assert many["bytes_up_per_owner"] == rows[limits]["bytes_up_per_owner"]


@pytest.mark.parametrize("wrong", ["owners=0", "owners=x", "clients=3", "owners"])
def test_sizes_that_mean_nothing_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match=f"--set {wrong}"):
        run(out=tmp_path, settings=[wrong], console=Console(quiet=True))
