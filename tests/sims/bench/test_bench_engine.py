"""`fedmore bench engine` as a user runs it, in its parts that need no other engine."""

import json

import pytest
from typer.testing import CliRunner

from fedmore.sims.bench.copying import plain_copy
from fedmore.sims.cli import app

KEYS = ["name", "ours", "opponent", "opponent_name", "unit", "ratio", "goal"]


@pytest.mark.slow
def test_rows_have_what_they_must_and_the_wire_adds_little(tmp_path):
    out = tmp_path / "found.json"
    chosen = ["--only", "overhead", "--only", "restart"]
    result = CliRunner().invoke(
        app, ["bench", "engine", "--json", "--quick", *chosen, "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [list(row) for row in rows] == [KEYS] * 5
    for row in rows:
        assert row["ours"] > 0
        assert (row["opponent"] is None) == (row["ratio"] is None) == (row["goal"] is None)
    for row in rows[:4]:
        assert row["ratio"] == row["opponent"] / row["ours"]
        assert row["goal"] < row["ratio"] < 1
    assert json.loads(out.read_text(encoding="utf-8"))["results"] == rows


def test_the_plain_copy_counts_every_byte():
    assert plain_copy((1 << 20) + 1, repeats=2) > 0
