"""The routing study from end to end on a tiny base, and what its claims say of made-up results."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from fedmore.sims.routing import claims, seeds
from fedmore.sims.routing.results import interval
from fedmore.sims.routing.study import run
from fedmore.sims.routing.tables import ChargedTable, Shared
from fedmore.sims.routing.variants import VARIANTS

ROUTER_KEYS = {
    "name", "k", "samples", "level", "trained_at", "mean_bpb", "ci95", "unseen_bpb", "ess_mean",
    "active_params", "steps_per_s",
}  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("routing")
    path = run(out=out, quick=True, console=Console(quiet=True))
    return out, json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_result_has_a_row_for_every_router(quick):
    _, found = quick
    assert found["seeds"] == [0]
    assert len(found["routers"]) == len(VARIANTS)
    for variant, row in zip(VARIANTS, found["routers"], strict=True):
        assert row.keys() >= ROUTER_KEYS
        assert (row["name"], row["trained_at"] or "") == (variant.name, variant.trained_at)
        assert 0 < row["mean_bpb"] < 10
        assert row["ci95"] is None  # of one seed
        assert (row["steps_per_s"] is not None) == (row["trained_at"] == "coordinator")
        trained = bool(variant.trained_at)
        assert bool(row["losses"][0]) == trained
        assert 1 - 1e-6 <= row["ess_mean"] <= len(found["experts"]) + 1
        if variant.kind == "remix":
            assert row["ess_mean"] == pytest.approx(variant.k)
    assert found["oracle_bpb"] < found["base_bpb"]
    assert set(found["withdrawn"][0]["after"]) == set(found["experts"])
    assert found["variance"][0]["2"] > found["variance"][0]["16"]


@pytest.mark.slow
def test_the_parts_of_documents_add_up(quick):
    _, found = quick
    parts = found["positions"]
    assert [part["from"] for part in parts] == [0, 1, 4, 16]
    assert [part["to"] for part in parts] == [1, 4, 16, found["size"]["tokens"]]
    rows = {(r["name"], r["k"], r["trained_at"]): r["mean_bpb"] for r in found["routers"]}
    whole = {
        "base": found["base_bpb"],
        "oracle": found["oracle_bpb"],
        "domain": rows["domain embeddings", 4, None],
        "remix": rows["ReMix, from domains", 1, "coordinator"],
    }
    for key, value in whole.items():
        assert sum(part[key] for part in parts) == pytest.approx(value, rel=1e-6), key


@pytest.mark.slow
def test_every_claim_is_judged_and_the_plots_are_there(quick):
    out, found = quick
    assert [row["claim"] for row in found["claims"]] == [text for text, _ in claims.CLAIMS]
    assert {path.name for path in out.glob("*.png")} == {
        "routing-routers.png", "routing-training.png", "routing-ess.png",
    }  # fmt: skip


@pytest.mark.slow
def test_what_is_done_is_not_done_again(quick, monkeypatch):
    out, found = quick
    (out / "seed-0" / "trials" / "uniform-sequence-lora-zero.json").unlink()
    monkeypatch.setattr(seeds, "run_scenario", None)
    monkeypatch.setattr(seeds.changes, "added", None)
    said = []
    monkeypatch.setattr(seeds.Kept, "__init__", _noting(seeds.Kept.__init__, said))
    again = json.loads(run(out=out, quick=True, console=Console(quiet=True)).read_text("utf-8"))
    assert said == ["seed 0: uniform-sequence-lora-zero"]
    for key in ("routers", "added", "withdrawn", "variance", "positions"):
        assert again[key] == found[key]


def _noting(make, said):
    def init(self, folder, _say, where):
        make(self, folder, said.append, where)

    return init


def test_slugs_tell_all_variants_apart():
    assert len({variant.slug for variant in VARIANTS}) == len(VARIANTS)


def test_an_interval_over_seeds():
    assert interval([1.0]) is None
    low, high = interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)  # t 4.3027, sem 0.5774


class Computing:
    """As much of a mixture as a table of losses looks at."""

    class router:  # noqa: N801
        weight = 0.5


def test_a_shared_loss_is_computed_once_and_charged_to_all(monkeypatch):
    computed = []

    def compute(table, keys):
        computed.extend(keys)
        table.known.update(dict.fromkeys(keys, 1.5))

    monkeypatch.setattr(ChargedTable.__mro__[1], "_compute", compute)
    shared, key = Shared(), (3, frozenset({1, 2}))
    first, second = (ChargedTable(Computing(), None, shared) for _ in range(2))
    first._compute([key])
    second._compute([key])
    assert computed == [key]
    assert second.known == first.known == {key: 1.5}
    assert (first.charged, second.charged) == (0.0, shared.seconds[0.5][key])


def router(kind, k, bpb, *, gap=0.0, ess=None, samples=0):
    steps = [[[4.0], [ess or float(k)]]]
    return {
        "name": "ReMix" if kind == "remix" else kind, "kind": kind, "k": k, "samples": samples,
        "trained_at": "coordinator", "start": "zero", "mean_bpb": bpb, "gap_closed": gap,
        "gap_closed_seeds": [gap],
        "ess_steps": steps,
    }  # fmt: skip


def result(*routers, harm=0.0, seconds=1.0, ratio=1.1):
    return {
        "routers": list(routers),
        "added": [{"steps": 19, "steps_of_retraining": 200, "seconds": seconds,
                   "seconds_of_retraining": 20.0, "bpb": 1.0, "bpb_of_retraining": 1.0}],
        "withdrawn": [{"harm": {"legal": harm, "code": -1.0}}],
        "cost": [{"shared": {"ratio": ratio}, "layers": {"ratio": 1.0}}],
    }  # fmt: skip


GOOD = result(
    router("softmax", 0, 1.2, ess=1.2), router("softmax", 2, 1.2), router("remix", 2, 1.1, gap=0.95,
    samples=4),
)  # fmt: skip


def met(found):
    return [row["met"] for row in claims.claims(found)]


def test_all_claims_can_be_met():
    assert met(GOOD) == [True] * len(claims.CLAIMS)


@pytest.mark.parametrize(
    ("claim", "bad"),
    [
        (0, result(router("softmax", 0, 1.2, ess=1.2), router("softmax", 2, 1.2),
                   router("remix", 2, 1.1, gap=0.89, samples=4))),
        (1, result(router("softmax", 0, 1.2, ess=1.6), router("softmax", 2, 1.2),
                   router("remix", 2, 1.1, gap=0.95, samples=4))),
        (2, result(router("softmax", 0, 1.2, ess=1.2), router("softmax", 2, 1.2),
                   router("remix", 2, 1.1, gap=0.95, samples=4, ess=1.9))),
        (3, result(router("softmax", 0, 1.2, ess=1.2), router("softmax", 2, 1.1),
                   router("remix", 2, 1.1, gap=0.95, samples=4))),
        (4, {**GOOD, "cost": result(ratio=0.9)["cost"]}),
        (5, {**GOOD, "added": result(seconds=2.1)["added"]}),
        (6, {**GOOD, "withdrawn": result(harm=0.02)["withdrawn"]}),
    ],
)  # fmt: skip
def test_every_claim_can_be_missed(claim, bad):
    assert [index for index, good in enumerate(met(bad)) if not good] == [claim]


def test_options_of_studies_are_refused_for_scenarios(tmp_path):
    command = [sys.executable, "-m", "fedmore.sims.cli", "sim", "run", "smoke", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "--quick and --results are for studies: routing" in done.stderr
    assert list(tmp_path.iterdir()) == []
