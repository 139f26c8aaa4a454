"""The routing study from end to end on a tiny base."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from fedmore.experts.errors import ConfigError
from fedmore.sims.studies.routing import claims, seeds
from fedmore.sims.studies.routing.study import run
from fedmore.sims.studies.routing.tables import ChargedTable, Shared
from fedmore.sims.studies.routing.variants import VARIANTS

ROUTER_KEYS = {
    "name", "k", "samples", "level", "trained_at", "mean_bpb", "ci95", "ci95_seeds", "unseen_bpb",
    "minus_domain", "gap_closed", "ess_mean", "active_params", "steps_per_s", "nats",
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
        assert row["ci95_seeds"] is None  # of one seed
        assert row["ci95"][0] < row["mean_bpb"] < row["ci95"][1]
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
    assert [row["claim"] for row in found["claims"]] == [text for text, *_ in claims.CLAIMS]
    assert {path.name for path in out.glob("*.png")} == {
        "routing-routers.png", "routing-training.png", "routing-ess.png",
    }  # fmt: skip


@pytest.mark.slow
def test_what_is_done_is_not_done_again(quick, monkeypatch):
    out, found = quick
    (out / "seed-0" / "trials" / "uniform-sequence-lora-zero.json").unlink()
    monkeypatch.setattr(seeds, "run_scenario", None)
    monkeypatch.setattr(seeds.changes, "added", None)
    console = Console(record=True, width=200)
    again = json.loads(run(out=out, quick=True, console=console).read_text("utf-8"))
    said = [line for line in console.export_text().splitlines() if line.startswith("seed ")]
    assert said == ["seed 0: uniform-sequence-lora-zero"]
    for key in ("routers", "added", "withdrawn", "variance", "positions"):
        assert again[key] == found[key]


@pytest.mark.slow
def test_what_is_done_is_not_taken_for_work_of_another_size(quick):
    out, _ = quick
    with pytest.raises(ConfigError, match="remove it, or ask for the same"):
        run(out=out, quick=True, settings=["study.documents=3"], console=Console(quiet=True))


def test_slugs_tell_all_variants_apart():
    assert len({variant.slug for variant in VARIANTS}) == len(VARIANTS)


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


def test_options_of_studies_are_refused_for_scenarios(tmp_path):
    command = [sys.executable, "-m", "fedmore.sims.cli", "sim", "run", "smoke", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "--quick and --results are for studies: routing" in done.stderr
    assert list(tmp_path.iterdir()) == []
