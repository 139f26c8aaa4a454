"""The studies of rounds on a base and texts that are smaller still."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console
from stages import OWN_FACTORS

from fedmore.experts.errors import ConfigError
from fedmore.experts.factors import ranks
from fedmore.sims.catalogue import STUDIES
from fedmore.sims.studies.rounds import (
    nested_ranks,
    participation,
    rank_scaling,
    round_start,
    study,
)
from fedmore.sims.studies.rounds.federation import Federation, Owner
from fedmore.sims.studies.rounds.goals import goals_of, with_shares
from fedmore.sims.studies.rounds.participation import run_case, schedules
from fedmore.sims.studies.rounds.variants import Variant, run_variant
from fedmore.sims.studies.rounds.world import tiny_world
from fedmore.strategies.stages.expert import ExpertStage


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = tiny_world(tmp_path_factory.mktemp("world"), 0, real=False, steps=2)
    texts = {n: (train[:8], held[:2]) for n, (train, held) in list(made.texts.items())[:2]}
    return replace(made, texts=texts, length=32, batch=1)


@pytest.fixture
def stage():
    return ExpertStage(codec="fp32", rounds=9, steps=1, **(OWN_FACTORS | {"learning_rate": 5e-3}))


@pytest.mark.parametrize("index", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_the_product_is_its_control(world, stage, index):
    case = schedules(list(world.texts), 4)[index]
    case = replace(case, rounds=case.rounds[-2:], before=1)
    (row,) = run_case(world, case, 0, stage)
    assert row["product_bpb"] == pytest.approx(row["control_bpb"], rel=1e-5)
    assert row["product_bpb"] != row["base_bpb"]


@pytest.mark.parametrize(
    ("start", "momentum", "codec"), [("pooled", 0.0, "fp32"), ("aggregate", 0.5, "sign1")]
)
def test_rows_of_round_start(world, stage, start, momentum, codec):
    variant = Variant(start, momentum, 0.7, codec, (2, 4), "unlike", 5e-3, 2, (1, 2))
    rows = run_variant(world, variant, 0, stage)
    assert [row["after"] for row in rows] == [1, 2]
    for row in rows:
        assert row["ci95"][0] <= row["mean_bpb"] <= row["ci95"][1]
        assert row["mean_bpb"] != row["base_bpb"]


def test_pooled_training_has_the_text_and_the_windows_of_all(world, stage):
    """As many steps as an owner takes: what differs is that nothing has to be aggregated."""
    variant = Variant("pooled", 0.0, 1.0, "fp32", (2, 2), "unlike", 5e-3, 1, (1,))
    (row,) = run_variant(world, variant, 0, stage)
    alone = replace(world, texts={"all": tuple(map(list, zip(*world.texts.values(), strict=True)))})
    train, held = ([text for part in side for text in part] for side in alone.texts["all"])
    alone = replace(alone, texts={"all": (train, held)}, batch=2)
    same = Variant("own", 0.0, 1.0, "fp32", (2,), "like", 5e-3, 1, (1,))
    (control,) = run_variant(alone, same, 0, stage)
    assert row["base_bpb"] == pytest.approx(control["base_bpb"])
    assert row["mean_bpb"] == pytest.approx(control["mean_bpb"], rel=0.05)


def rows_of(start, momentum, by_seed, **fields):
    shared = {
        "model": "m", "split": "like", "rounds": 20, "after": 20, "base_bpb": 4.0, "lr": 1.0,
        "codec": "fp32", "ranks": [4, 4], "start": start, "momentum": momentum,
    }  # fmt: skip
    return [{**shared, **fields, "seed": k, "mean_bpb": bpb} for k, bpb in enumerate(by_seed)]


def test_shares_and_goals_take_one_rate_for_all_seeds():
    """The rate that is best over the seeds, never the best of each seed."""
    rows = [
        *rows_of("pooled", 0.0, (3.0, 3.2), lr=1.0),
        *rows_of("pooled", 0.0, (2.9, 3.6), lr=2.0),
        *rows_of("own", 0.0, (3.3, 3.301), rounds=3, after=3),
        *rows_of("own", 0.0, (3.3, 3.3), codec="sign1", rounds=3, after=3),
        *rows_of("aggregate", 0.5, (3.1, 3.2)),
        *rows_of("aggregate", 0.5, (3.2, 3.3), rounds=3, after=3),
        *rows_of("aggregate", 0.5, (3.1, 3.2), codec="sign1"),
    ]
    found = with_shares(rows)
    coarse = [row for row in found if (row["start"], row["codec"]) == ("aggregate", "sign1")]
    shares = [row["pooled_gain_share"] for row in coarse]
    assert shares == pytest.approx([0.9, 1.0])
    goals = goals_of(found)
    share = goals["share of pooled gain after 20 rounds: m, like, ranks equal, fp32"]
    assert (share["mean"], share["outcome"]) == (pytest.approx(0.95), "undecided")
    assert share["ci95"][0] < 0.95 < share["ci95"][1]
    behind = goals["bits per byte above own after 3 rounds: m, like, ranks equal, fp32"]
    assert (behind["mean"], behind["outcome"]) == (pytest.approx(-0.0505), "undecided")
    one_bit = goals["above fp32 after 20 rounds: m, like, ranks equal, sign1"]
    assert (one_bit["mean"], one_bit["outcome"]) == (0, "met")
    assert not any("after 3 rounds: m, like, ranks equal, sign1" in name for name in goals)


@pytest.mark.parametrize(
    ("more", "runs"),
    [
        ([], ["a-fp32", "a-sign1", "b-fp32"]),
        (["only=a-"], ["a-fp32", "a-sign1"]),
        (["only=b-", "only=sign1"], ["a-sign1", "b-fp32"]),
        (["steps=5", "only=b-"], ["b-fp32"]),
    ],
)
def test_a_part_of_the_cases_is_run(world, tmp_path, monkeypatch, more, runs):
    monkeypatch.setattr(study, "worlds", lambda *_, **__: [(world, 0)])
    cases = [SimpleNamespace(name=name) for name in ("a-fp32", "a-sign1", "b-fp32")]

    def rows(_, case, seed, stage):
        return [{"case": case.name, "seed": seed, "steps": stage.steps}]

    made = replace(
        participation.STUDY, cases=lambda *_: cases, rows=rows, finished=lambda found: (found, {})
    )

    def run(settings):
        path = made.run(out=tmp_path, settings=settings, console=Console(quiet=True))
        return json.loads(path.read_text())["cases"]

    assert [row["case"] for row in run(more)] == runs
    steps = {row["steps"] for row in run([*more, "steps=7"])}
    assert steps == {7}, "rows of other settings are not taken for those of these"
    with pytest.raises(ConfigError, match="no case of the study"):
        run(["only=c-"])


def test_a_study_goes_on_where_it_stopped(world, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "worlds", lambda *_, **__: [(world, 0)])
    case = schedules(list(world.texts), 4)[0]
    case, said = replace(case, rounds=case.rounds[:1], before=1), Console(quiet=True)
    chosen = replace(participation.STUDY, cases=lambda *_: [case])
    path = chosen.run(out=tmp_path, quick=True, console=said)
    found = json.loads(path.read_text())
    assert set(found) == {"command", "versions", "seeds", "goals", "cases"}
    assert found["goals"]["farthest from its control"]["outcome"] == "met"
    fields = {"case", "model", "seed", "base_bpb", "before_bpb", "product_bpb", "control_bpb"}
    assert set(found["cases"][0]) == fields

    def not_again(*_):
        pytest.fail("a row that is there was made anew")

    assert replace(chosen, rows=not_again).run(out=tmp_path, quick=True, console=said) == path


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
@pytest.mark.parametrize("made", [participation, round_start, rank_scaling])
def test_cases_are_told_apart_by_their_names(made, name):
    like = SimpleNamespace(name=name, texts=dict.fromkeys("abcd"[: 4 if name == "tiny" else 3]))
    names = [case.name for case in made.STUDY.cases(like, 0, quick=False)]
    assert len(names) == len(set(names)) > 2


@pytest.mark.parametrize("model", ["tiny"])
def test_a_scale_is_compared_at_one_rate_and_at_the_best_of_each_rank(model):
    def row(rank, lr, scaling, bpb):
        return {"model": model, "ranks": [rank], "lr": lr, "scaling": scaling, "mean_bpb": bpb}

    rows = [
        row(8, 1, "constant", 3.0), row(8, 2, "constant", 3.2),
        row(64, 1, "constant", 3.4), row(64, 2, "constant", 3.1),
        row(64, 1, "rslora", 2.8), row(64, 2, "rslora", 3.0),
    ]  # fmt: skip
    _, found = rank_scaling.finished(rows)
    constant, rslora = found[model]["constant"], found[model]["rslora"]
    assert constant == pytest.approx({"lr 1": 3.2, "lr 2": 3.15, "best rate of each rank": 3.05})
    assert rslora == pytest.approx({"lr 1": 2.9, "lr 2": 3.1, "best rate of each rank": 2.9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": ["steps"]}, "expected KEY=VALUE"),
        ({"settings": ["seeds=one"]}, "seeds=one: expected numbers"),
        ({"settings": ["base=large"]}, "the bases of a study are tiny, smollm2"),
        ({"engine": "grpc"}, "runs in one process"),
    ],
)
def test_what_a_study_cannot_do_is_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        participation.STUDY.run(out=tmp_path, console=Console(quiet=True), **options)


def test_settings_of_a_study():
    chosen = study._choices(["seeds=0,2", "steps=4", "only=a", "only=b"])
    assert chosen == (["steps=4"], ["a", "b"], [0, 2])
    bases, stage = study._read(["steps=4", "codec=sign1", "base=tiny"], {"steps": 1})
    assert (bases, stage.steps, stage.codec) == (["tiny"], 4, "sign1")
    assert {"participation", "round-start", "rank-scaling"} <= set(STUDIES)
    assert STUDIES["round-start"]().__self__ is round_start.STUDY


def test_ways_to_a_rank_meet_where_nothing_is_cut(world, stage):
    """At the full rank a cut by SVD is direct training, and nested training is another one."""
    owner = nested_ranks.Owner(next(iter(world.texts)))
    rows = nested_ranks.rows_of(world, owner, 0, replace(stage, steps=4))
    found = {(row["way"], row["rank"]): row for row in rows}
    assert len(rows) == len(found) == 15
    assert found["svd", 16]["bpb"] == found["direct", 16]["bpb"] != found["nested", 16]["bpb"]
    for (_, rank), row in found.items():
        gap = found["nested", rank]["bpb"] - row["bpb"]
        assert row["nested_less_this"]["mean"] == pytest.approx(gap, abs=1e-9)
    _, means = nested_ranks.finished(rows)
    assert means["svd"]["4"]["mean_bpb"] == found["svd", 4]["bpb"]


@pytest.mark.parametrize("start", ["own", "aggregate"])
def test_training_over_a_cut_broadcast_goes_on_falling(world, stage, start):
    """Two owners are sent one direction of what they have made, and their text still gains."""
    name = next(iter(world.texts))
    owners = [Owner(f"o{k}", 2 + 2 * k, name, k, 2) for k in range(2)]
    cut = replace(stage, round_start=start, broadcast_rank=1, steps=3, learning_rate=1e-2)
    federation, scores = Federation(world, cut, 0), [world.base_score([name])]
    for _ in range(3):
        federation.round(owners)
        scores.append(federation.score([name]))
    assert max(scores[1:]) < scores[0]
    assert scores[-1] < scores[1]
    assert federation.state.rank > max(ranks(federation.sent).values()) == 1
