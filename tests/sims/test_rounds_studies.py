"""The studies of rounds on a base and texts that are smaller still."""

import json
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from fedmore.experts.errors import ConfigError
from fedmore.sims.rounds import participation, report, round_start
from fedmore.sims.rounds.participation import cases, run_case
from fedmore.sims.rounds.round_start import Variant, run_variant, with_shares
from fedmore.sims.rounds.world import tiny_world
from fedmore.sims.scenarios.catalogue import STUDIES


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = tiny_world(tmp_path_factory.mktemp("world"), 0, steps=2)
    texts = {n: (train[:8], held[:2]) for n, (train, held) in list(made.texts.items())[:2]}
    return replace(made, texts=texts, length=32, batch=1)


@pytest.fixture
def stage():
    return report.stage((), rounds=9, steps=1, learning_rate=5e-3)


@pytest.mark.parametrize("index", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_the_product_is_its_control(world, stage, index):
    case = cases(list(world.texts))[index]
    case = replace(case, rounds=case.rounds[-2:], before=1)
    row = run_case(world, case, 0, stage)
    assert row.product_bpb == pytest.approx(row.control_bpb, rel=1e-5)
    assert row.product_bpb != row.base_bpb


@pytest.mark.parametrize(
    ("start", "momentum", "codec"), [("pooled", 0.0, "fp32"), ("aggregate", 0.5, "sign1")]
)
def test_a_row_of_round_start(world, stage, start, momentum, codec):
    variant = Variant(start, momentum, 0.7, codec, (2, 4), "unlike", 5e-3, 2)
    row = run_variant(world, variant, 0, stage)
    assert row["ci95"][0] <= row["mean_bpb"] <= row["ci95"][1]
    assert row["mean_bpb"] != row["base_bpb"]


def test_the_share_of_the_pooled_gain():
    shared = {"model": "m", "seed": 0, "split": "like", "rounds": 3, "base_bpb": 4.0}
    rows = [{**shared, "start": "pooled", "mean_bpb": bpb} for bpb in (3.5, 3.0)]
    rows.append({**shared, "start": "own", "mean_bpb": 3.2})
    assert [row["pooled_gain_share"] for row in with_shares(rows)] == pytest.approx([0.5, 1, 0.8])


def test_a_study_goes_on_where_it_stopped(world, stage, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "worlds", lambda *_, **__: [(world, 0)])
    short = [replace(case, rounds=case.rounds[:1], before=1) for case in cases(list(world.texts))]
    monkeypatch.setattr(participation, "cases", lambda *_: short[:1])
    path = participation.run(out=tmp_path, quick=True, console=Console(quiet=True))
    found = json.loads(path.read_text())
    assert set(found) == {"command", "versions", "seeds", "cases"}
    assert set(found["cases"][0]) == set(participation.Row.__dataclass_fields__)
    monkeypatch.setattr(participation, "run_case", None)
    assert participation.run(out=tmp_path, quick=True, console=Console(quiet=True)) == path


def test_variants_are_told_apart_by_their_names():
    for make in (round_start.starts, round_start.scalings):
        names = [
            str(asdict(v)) for v in make(type("W", (), {"texts": {"a": 1, "b": 1}}), quick=False)
        ]
        assert len(names) == len(set(names))


def test_settings_of_a_study():
    assert report.stage(["steps=4", "codec=sign1"], steps=1).steps == 4
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        report.stage(["steps"])
    assert {"participation", "round-start", "rank-scaling"} <= set(STUDIES)
