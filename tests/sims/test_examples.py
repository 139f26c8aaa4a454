"""Every example runs: the simulation as it is, the two packages from their wheels."""

import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from fedmore.experts import load_base, load_mixture
from fedmore.experts.plugins import installed
from fedmore.sims import simulate
from fedmore.strategies import Change
from fedmore.strategies.expert_stage.aggregation import rule_of
from fedmore.strategies.plugins import all_plugins
from fedmore.strategies.stages.expert import ExpertStage

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORT = ["stages.0.rounds=1", "stages.1.rounds=1", "evaluation.documents=1"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with both packages as their wheels hold them."""
    place = tmp_path_factory.mktemp("site-packages")
    for name in ("custom_router", "custom_rule"):
        out = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
        done = subprocess.run(command, cwd=EXAMPLES / name, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (wheel,) = out.glob("*.whl")
        zipfile.ZipFile(wheel).extractall(place)
    return place


@pytest.fixture
def beside(packages, monkeypatch):
    """Both are installed."""
    monkeypatch.syspath_prepend(str(packages))
    installed.cache_clear()
    yield
    monkeypatch.undo()
    installed.cache_clear()


@pytest.mark.slow  # a whole federation
def test_the_simulation_runs(tmp_path, monkeypatch, capsys):
    code = (EXAMPLES / "simulation.py").read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 10
    monkeypatch.setattr(sys, "argv", ["simulation.py", str(tmp_path / "out")])
    runpy.run_path(str(EXAMPLES / "simulation.py"), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if "bits per byte" in line]
    assert {"kitchen", "garden", "xx", "sums", "plain"} <= {line.split()[0] for line in lines}
    assert (tmp_path / "out" / "report.json").is_file()


@pytest.mark.slow  # a whole federation
def test_a_federation_runs_with_both_packages(beside, tmp_path):
    assert [plugin.key for plugin in all_plugins()] == [
        "aggregation.geometric_median",
        "router.by_change",
    ]
    settings = [
        *SHORT, "router.kind=by_change", "stages.0.aggregation=geometric_median",
    ]  # fmt: skip
    report = simulate("smoke", tmp_path / "out", settings=settings)
    assert report.mixture.router == "by_change"
    base = load_base(str(tmp_path / "out" / "base"), "float32")
    mixture = load_mixture(tmp_path / "out" / "mixture", base)
    norms = mixture.router.norms_E
    assert len(norms) == 3
    assert bool((norms > 0).all())
    ids = base.tokenizer("stir the soup", return_tensors="pt")["input_ids"]
    assert isinstance(mixture.model, torch.nn.Module)
    assert not torch.equal(mixture.model(ids).logits, base.model(ids).logits)


def change(client, value):
    before = {"up": (torch.zeros(6, 2), torch.ones(2, 4))}
    after = {"up": (torch.full((6, 2), value), torch.ones(2, 4))}
    return Change(client, before, after)


def test_the_rule_leaves_one_hostile_owner_no_weight(beside):
    rule = rule_of(ExpertStage(aggregation="geometric_median"))
    honest = [change(f"owner-{i}", 1.0 + 0.01 * i) for i in range(5)]
    shares = rule.weights([*honest, change("hostile", -100.0)])
    assert sum(shares) == pytest.approx(1)
    assert shares[-1] < 0.01
    assert rule.separable
