"""Experts from elsewhere, and at other ranks, through the commands that a user gives."""

import json
import re
import shutil

import peft
import pytest
import torch
from contributed import SITES, contribution, write_round
from safetensors.torch import load, load_file, save_file
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.folder.federation import Federation, running_alone
from fedmore.coordinator.mixture.repacking import repacked
from fedmore.coordinator.mixture.withdrawal import leave_out
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.base.model import load_base
from fedmore.experts.conversion import recovery
from fedmore.experts.factors import from_state
from fedmore.experts.mixture.checkpoint import load_mixture, read_recipe
from fedmore.sims.data.tiny_model import make_tiny_base
from fedmore.strategies.expert_stage.state import fresh
from fedmore.strategies.expert_stage.step import advance

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT, as it makes adapters
DOWN = "model.layers.{}.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def sources(tiny, tmp_path_factory):
    """A fine-tuned model whose change has rank 6 in two matrices, and an adapter of rank 4."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    tuned = shutil.copytree(tiny, folder / "tuned")
    weights = load_file(tuned / "model.safetensors")
    for layer in (0, 3):
        weights[DOWN.format(layer)] += 0.2 * torch.randn(64, 6) @ torch.randn(6, 176)
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    config = peft.LoraConfig(r=4, target_modules=["gate_proj", "up_proj", "down_proj"])
    model = peft.get_peft_model(load_base.__wrapped__(str(tiny), "float32").model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder / "adapter")
    lines = [json.dumps({"text": f"The boat sails the sea for {n} days."}) for n in range(40)]
    (folder / "sea.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "public.txt").write_text("Text that anybody may read.\n" * 40, encoding="utf-8")
    return folder


@pytest.fixture
def run(tiny, sources, tmp_path):
    """Call it with a command's words after the folder: what it prints, and its exit code."""
    place = str(tmp_path / "federation")
    made = CliRunner().invoke(
        app,
        ["init", place, "--base", str(tiny), "--domain", "legal", "--opener", "none",
         "--public-text", str(sources / "public.txt")],
    )  # fmt: skip
    assert made.exit_code == 0, made.output

    def command(name, *words, ok=True):
        done = CliRunner().invoke(app, [name, place, *map(str, words)])
        assert (done.exit_code == 0) == ok, (done.output, done.exception)
        return done.output if ok else str(done.exception)

    command.place = tmp_path / "federation"
    return command


def listed(run):
    return {row["name"]: row for row in json.loads(run("experts", "--json"))}


def test_a_fine_tuned_model_and_an_adapter_become_experts_of_a_mixture(run, sources, tiny):
    told = run(
        "import", "--expert", "sea", "--from", sources / "tuned", "--rank", 4,
        "--text", sources / "sea.jsonl",
    )  # fmt: skip
    assert "sea: expert of rank 4" in told
    assert "error " in told
    told = run("import", "--expert", "port", "--from", sources / "adapter")
    assert "port: expert of rank 4" in told
    assert "error 0.00%" in told
    rows = listed(run)
    assert {name: row["stage"] for name, row in rows.items()} == {"sea": -1, "port": -1}
    about = rows["sea"]["metrics"]["imported"]
    assert about["format"] == "model"
    assert 0 < about["error"] < 1
    assert about["source"].startswith("v2:")
    assert rows["port"]["metrics"]["imported"]["format"] == "peft"
    assert "–" in run("experts")
    assert str(sources) not in json.dumps(rows)

    run("assemble")  # the router of domains: an expert without a text stays out
    folder = run.place / "mixture"
    assert [e.name for e in read_recipe(folder).experts] == ["sea"]
    run("assemble", "--router", "uniform")
    assert [e.name for e in read_recipe(folder).experts] == ["port", "sea"]
    base = load_base(str(tiny), "float32")
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        mixture = load_mixture(folder, base)
        assert not torch.equal(
            mixture.model(input_ids=ids, use_cache=False).logits,
            base.model(input_ids=ids, use_cache=False).logits,
        )


def test_an_expert_that_is_imported_again_has_a_newer_version(run, sources):
    run("import", "--expert", "sea", "--from", sources / "tuned", "--rank", 2)
    first = listed(run)["sea"]
    run("import", "--expert", "sea", "--from", sources / "tuned", "--rank", 8)
    second = listed(run)["sea"]
    assert (first["rank"], second["rank"]) == (2, 8)
    assert second["metrics"]["imported"]["error"] < 1e-3 < first["metrics"]["imported"]["error"]
    assert second["round"] == first["round"] + 1
    assert {first["digest"], second["digest"]} < Store(run.place / "blobs").digests()


WRONG = {
    "a trained name": (["--expert", "legal", "--rank", "2"], "'legal' is there already"),
    "the base's name": (["--expert", "public", "--rank", "2"], "is the base's own name"),
    "no name": (["--expert", "../x", "--rank", "2"], "cannot be a name"),
    "no rank": (["--expert", "sea"], "--rank: say how many"),
    "no text": (["--expert", "sea", "--rank", "2", "--text", "nothing.txt"], "is not there"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_imports_say_why_and_keep_nothing(run, sources, words, message):
    assert message in run("import", *words, "--from", sources / "tuned", ok=False)
    assert listed(run) == {}


def test_nothing_is_imported_while_a_coordinator_runs(run, sources):
    with running_alone(run.place):
        said = run("import", "--expert", "s", "--from", sources / "adapter", ok=False)
    assert "another `coordinator start` is running" in said


def test_an_expert_is_repacked_from_what_it_was_and_restored(run, sources):
    run("import", "--expert", "sea", "--from", sources / "tuned", "--rank", 6)
    whole = listed(run)["sea"]
    assert "rank 4, " in run("repack", "--expert", "sea", "--rank", 4)
    run("repack", "--expert", "sea", "--rank", 2)
    row = listed(run)["sea"]
    assert row["rank"] == 2
    assert row["metrics"]["repacked"]["from"] == whole["digest"]
    store = Store(run.place / "blobs")
    assert {row["digest"], whole["digest"]} < store.digests()
    run("assemble", "--router", "uniform")
    assert read_recipe(run.place / "mixture").experts[0].rank == 2
    assert "error 0.00%" in run("repack", "--expert", "sea", "--rank", 6)
    assert listed(run)["sea"]["digest"] == whole["digest"]
    assert "no expert named 'lake'" in run("repack", "--expert", "lake", "--rank", 2, ok=False)


def test_a_cut_expert_recovers_on_text_and_a_harmful_recovery_is_not_kept(
    run, sources, monkeypatch
):
    run("import", "--expert", "sea", "--from", sources / "tuned", "--rank", 6)
    words = ("--expert", "sea", "--rank", 1, "--recover", 6)
    assert "--recover: name a file of text" in run("repack", *words, ok=False)
    run("repack", *words[:4])
    cut = listed(run)["sea"]["digest"]
    told = run("repack", *words, "--text", sources / "sea.jsonl")
    before, after = map(float, re.findall(r"recovery: ([\d.]+) to ([\d.]+) .*, kept", told)[0])
    assert after < before
    assert listed(run)["sea"]["digest"] != cut
    found = iter([1.0, 1.5])
    monkeypatch.setattr(recovery, "mean_bits_per_byte", lambda _: next(found))
    assert "no gain, so it is not kept" in run("repack", *words, "--text", sources / "sea.jsonl")
    assert listed(run)["sea"]["digest"] == cut


def test_a_withdrawn_owner_is_in_no_version_that_a_repacked_one_was_made_from(tmp_path):
    table = {
        "federation": {"name": "test"},
        "base": {"model": "somewhere"},
        "stages": [{"kind": "experts", "rounds": 1}],
    }
    with Registry.open(tmp_path) as registry:
        for name in ("a", "b"):
            registry.enrol(registry.invite(name), name, "expert", "legal", 2)
        store = Store(tmp_path / "blobs")
        state, _ = advance(
            fresh("legal", "expert", SITES), [contribution("a", 1), contribution("b", 2)], 512
        )
        there = Federation(tmp_path, parse_config(table, "test"), registry, store)
        write_round(there, {"legal": state}, 1)
        whole = registry.latest("legal").digest
        done = repacked(there, "legal", 1)
        assert 0 < done.error < 1
        assert done.row.metrics["owners"] == ["a", "b"]
        registry.withdraw("a", "")
        leave_out(there)
        row = registry.latest("legal")
        assert row.metrics["owners"] == ["b"]
        assert not {whole, done.row.digest} & store.digests()
        left = from_state(load(store.get(row.digest)))
        assert max(a.shape[0] for _, a in left.values()) == 2


@pytest.mark.parametrize(
    ("nested", "owners", "prefix"),
    [(True, ["a"], True), (True, ["a", "b"], False), (False, ["a"], False)],
)
def test_a_nested_expert_of_one_owner_is_cut_to_the_prefix_that_was_trained(
    tmp_path, nested, owners, prefix
):
    """Of several owners the leading singular directions are kept, as of an expert that is not."""
    table = {
        "federation": {"name": "test"},
        "base": {"model": "somewhere"},
        "stages": [{"kind": "experts", "rounds": 1, "nested_ranks": nested, "round_start": "own"}],
    }
    changes = [contribution(name, seed, rank=4) for seed, name in enumerate(owners)]
    with Registry.open(tmp_path) as registry:
        for name in owners:
            registry.enrol(registry.invite(name), name, "expert", "legal", 4)
        store = Store(tmp_path / "blobs")
        state, _ = advance(fresh("legal", "expert", SITES), changes, 512)
        there = Federation(tmp_path, parse_config(table, "test"), registry, store)
        write_round(there, {"legal": state}, 1)
        whole = from_state(load(store.get(registry.latest("legal").digest)))
        done = repacked(there, "legal", 2)
        again = repacked(there, "legal", 3)
        kept = from_state(load(store.get(done.row.digest)))
        wider = from_state(load(store.get(again.row.digest)))
    for path, (b, a) in state.aggregate.items():
        torch.testing.assert_close(whole[path][0] @ whole[path][1], b @ a, rtol=1e-5, atol=1e-5)
        after_b, after_a = changes[0].after[path]
        first = 2.0 * after_b[:, :2] @ after_a[:2]
        found = kept[path][0] @ kept[path][1]
        assert torch.equal(found, first) == prefix
        nearest = torch.linalg.svd(b @ a).S[2:].norm()
        off = (found - b @ a).norm()
        assert bool(off > 1.01 * nearest) == prefix
        assert torch.equal(wider[path][1][:2], kept[path][1]) or not prefix
