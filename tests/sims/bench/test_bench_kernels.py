"""`fedmore bench kernels`."""

import json
from dataclasses import fields

import pytest
from typer.testing import CliRunner

from fedmore.kernels.benchmarking.comparison import Result
from fedmore.kernels.dispatch import FORMS
from fedmore.kernels.errors import KernelError
from fedmore.kernels.sign1 import bench as sign1_bench
from fedmore.sims.bench.cli import Op
from fedmore.sims.cli import app

GOOD = Result("sign1 x", "8 numbers", 1.0, 3.0, "numpy", "ms", 3.0, 2.0, verified=True)
ALONE = Result("sign1 y", "8 numbers", 1.0, None, None, "ms", None, None, verified=True)
BAD = Result("sign1 z", "8 numbers", None, None, "numpy", "ms", None, 2.0, verified=False)


def run(*arguments):
    return CliRunner().invoke(app, ["bench", "kernels", *arguments])


@pytest.fixture
def results(monkeypatch):
    def use(*made):
        monkeypatch.setattr(sign1_bench, "results", lambda quick, device: iter(made))

    return use


def test_every_op_is_measured():
    assert {op.value for op in Op} == set(FORMS)


@pytest.mark.slow
@pytest.mark.parametrize("op", Op)
def test_quick_measurements_of_every_op(op):
    """All is equal to its specification; how fast it is is not for a test."""
    result = run("--quick", "--json", "--only", op.value)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert rows
    for row in rows:
        assert list(row) == [field.name for field in fields(Result)]
        assert row["name"].startswith(op.value)
        assert row["verified"] is True
        assert row["ours"] > 0
        assert (row["opponent"] is None) == (row["ratio"] is None) == (row["opponent_name"] is None)
        assert row["goal"] is None or row["goal"] > 0
        if row["ratio"] is not None:
            assert row["ratio"] == pytest.approx(row["opponent"] / row["ours"])


def test_one_that_is_not_equal_is_an_error(results):
    results(GOOD, BAD)
    result = run("--only", "sign1", "--json")
    assert result.exit_code == 1
    assert [row["verified"] for row in json.loads(result.stdout)] == [True, False]


def test_a_gpu_that_is_not_there_is_a_wrong_option(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = run("--only", "sign1", "--device", "cuda")
    assert isinstance(result.exception, KernelError)
    assert "torch finds no CUDA device" in str(result.exception)
    assert run("--device", "tpu").exit_code == 2


def test_a_table_names_the_machine_and_a_file_holds_both(results, tmp_path):
    results(GOOD, ALONE)
    out = tmp_path / "bench.json"
    result = run("--only", "sign1", "--out", str(out))
    assert result.exit_code == 0
    assert "torch" in result.stdout.splitlines()[0]
    assert "sign1 x" in result.stdout
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["command"] == "fedmore bench kernels"
    assert written["machine"]["python"]
    assert [row["ratio"] for row in written["results"]] == [3.0, None]
