"""An owner that withdraws: what is left is what the others made, and no file holds its part."""

import pytest
import torch
from contributed import SITES, SPEC, contribution, write_round
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.mixture.validity import mark_of
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.mixture.withdrawal import leave_out
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import EMBEDDINGS, STORE_ID
from fedmore.experts.errors import BaseError, RegistryError
from fedmore.experts.mixture.checkpoint import Recipe, save_mixture
from fedmore.experts.routers.static import UniformRouter
from fedmore.strategies.embedding_stage import embeddings
from fedmore.strategies.embedding_stage.embeddings import Embedding
from fedmore.strategies.expert_stage.snapshot import restore
from fedmore.strategies.expert_stage.state import fresh, without
from fedmore.strategies.expert_stage.step import advance


@pytest.fixture
def kept(tmp_path):
    """Two rounds of a stage: legal is a's and b's, medical is m's."""
    config = parse_config(
        {
            "federation": {"name": "test"},
            "base": {"model": "somewhere"},
            "stages": [{"kind": "experts", "rounds": 2}],
        },
        "test",
    )
    with Registry.open(tmp_path) as registry:
        for name in ("a", "b", "m"):
            registry.enrol(registry.invite(name), name, "expert", "legal", 2)
        store = Store(tmp_path / "blobs")
        states = {n: fresh(n, "expert", SITES) for n in ("legal", "medical")}
        federation = Federation(tmp_path, config, registry, store)
        for number in (1, 2):
            for name, owners in (("legal", "ab"), ("medical", "m")):
                items = [contribution(o, 10 * number + ord(o)) for o in owners]
                states[name], _ = advance(states[name], items, 512)
            write_round(federation, states, number)
        yield federation, states


def versions(registry):
    return {(row.name, row.round): row.digest for row in registry.experts()}


def test_nobody_withdrawn_changes_nothing(kept):
    federation, _ = kept
    registry = federation.registry
    before = versions(registry)
    assert leave_out(federation) == []
    assert versions(registry) == before


def test_a_part_is_taken_out_of_what_others_share(kept):
    federation, states = kept
    registry, store = federation.registry, federation.store
    before, old_state = versions(registry), registry.rounds()[-1].metrics[STATE]
    registry.withdraw("a", "changed our mind")
    assert leave_out(federation) == ["legal"]
    after = versions(registry)
    assert set(after) == {("legal", 2), ("medical", 1), ("medical", 2)}
    assert not store.has(before["legal", 1])
    assert not store.has(before["legal", 2])
    assert not store.has(old_state)
    metrics = registry.rounds()[-1].metrics
    left = restore(store.get(metrics[STATE]))
    alone, _ = without(states["legal"], {"a"}, 512)
    assert set(left["legal"].components) == {"b"}
    for path, pair in alone.aggregate.items():
        found = left["legal"].aggregate[path]
        assert all(torch.equal(x, y) for x, y in zip(found, pair, strict=True))
    assert metrics["experts"]["legal"]["owners"] == ["b"]
    assert metrics["experts"]["legal"]["digest"] == after["legal", 2]
    assert leave_out(federation) == []
    assert versions(registry) == after


def test_an_expert_whose_owners_all_withdrew_is_no_more(kept):
    federation, _ = kept
    registry = federation.registry
    registry.withdraw("m")
    assert leave_out(federation) == ["medical"]
    assert {name for name, _ in versions(registry)} == {"legal"}
    assert "digest" not in registry.rounds()[-1].metrics["experts"]["medical"]


def test_versions_of_earlier_rounds_go_even_where_the_last_is_clean(kept):
    """The strategy has left the owner out already; what it was part of before is still there."""
    federation, states = kept
    registry = federation.registry
    states["legal"], _ = without(states["legal"], {"a"}, 512)
    write_round(federation, states, 3)
    registry.withdraw("a")
    assert leave_out(federation) == []
    assert {key for key in versions(registry) if key[0] == "legal"} == {("legal", 3)}


def embedded(registry, store, *owners):
    """A router stage in which these sent their embeddings."""
    sent = {o: Embedding("medical" if o == "m" else "legal", 9, torch.ones(3)) for o in owners}
    digest = store.put(embeddings.dump(sent))
    registry.set_state(EMBEDDINGS, digest)
    registry.add_round(stage=1, kind="router", round=1, metrics={STATE: digest, "clients": {}})
    return digest


@pytest.mark.parametrize(("gone", "left"), [("a", {"b", "m"}), ("m", {"a", "b"})])
def test_its_embedding_goes_from_registry_and_store(kept, gone, left):
    federation, _ = kept
    registry, store = federation.registry, federation.store
    before = embedded(registry, store, "a", "b", "m")
    registry.withdraw(gone)
    for _ in "twice":
        leave_out(federation)
        digest = registry.get_state(EMBEDDINGS)
        assert set(embeddings.restore(store.get(digest))) == left
        assert registry.rounds()[-1].metrics[STATE] == digest
        assert not store.has(before)


@pytest.fixture
def folder(kept, tmp_path):
    """The same as a federation's folder, with a mixture that was made before anybody withdrew."""
    registry, store = kept[0].registry, kept[0].store
    (tmp_path / "federation.toml").write_text(
        '[federation]\nname = "test"\n[base]\nmodel = "somewhere"\n'
        '[[stages]]\nkind = "experts"\nrounds = 2\n'
    )
    pair_again(registry, store)
    save_mixture(tmp_path / "mixture", Recipe("x", "y", {}, ()), {}, UniformRouter(SPEC))
    return tmp_path


def pair_again(registry, store):
    store.own("ab")
    registry.set_state(STORE_ID, "ab")


def test_the_command_says_what_became_of_each_expert(folder):
    said = run("withdraw", folder, "a", "--reason", "our lawyer")
    assert "legal: made anew without it" in said
    assert "the mixture: removed" in said
    assert f"`coordinator assemble {folder}` makes" in said
    said = run("withdraw", folder, "m")
    assert "medical: gone, nobody else has a part in it" in said
    assert "the mixture" not in said.splitlines()[1]
    said = run("withdraw", folder, "b")
    assert "legal: gone" in said
    assert "no expert is left" in said
    assert "coordinator assemble" not in said
    said = run("status", folder)
    assert "members: 0 of 2 (3 withdrawn)" in said


def test_the_remaining_owners_are_asked_for_more_rounds(folder, kept):
    """Without text to score it on nobody knows if it is worse: it is kept, and trained on."""
    assert "2 rounds of " in run("plan", folder)
    kept[0].registry.set_state("phase", "finished")
    said = run("withdraw", folder, "a", "--recover", "3")
    assert "not scored: evaluation.texts names no text for legal" in said
    assert "3 recovery rounds of its remaining owners" in said
    assert f"`coordinator start {folder}` goes on with experts for legal;" in said
    assert "5 rounds of " in run("plan", folder)
    said = run("status", folder)
    assert "test: interrupted" in said
    assert "2 of 5 rounds done" in said


@pytest.mark.parametrize(
    "command",
    [("generate", "--prompt", "Once"), ("chat",), ("evaluate",)],
    ids=lambda command: command[0],
)
def test_a_mixture_from_before_a_withdrawal_is_refused(folder, kept, command):
    """The base is not there at all: it is refused before that is loaded."""
    name, *options = command
    kept[0].registry.withdraw("a")  # as the running coordinator writes it down
    with pytest.raises(RegistryError, match=r"made before a withdrew.*coordinator assemble"):
        run(name, folder, *options)
    save_mixture(
        folder / "mixture",
        Recipe("x", "y", {}, (), mark_of(kept[0].registry.withdrawn())),
        {},
        UniformRouter(SPEC),
    )
    with pytest.raises(BaseError):
        run(name, folder, *options)


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output
