"""The study of embedding inversion: what the attack names with and without the defence."""

import json

import pytest
import torch
from rich.console import Console

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import ConfigError
from fedmore.sims.catalogue import STUDIES
from fedmore.sims.studies.embedding_inversion import material, study
from fedmore.sims.studies.embedding_inversion.attack import (
    expected,
    invert,
    rare_named,
    share_named,
    whole,
)
from fedmore.sims.studies.embedding_inversion.results import interval, table

V, D, TOTAL = 400, 64, 200


@pytest.fixture
def text():
    """Rows, counts in other text, and the truth: 10 tokens, some of them rare elsewhere."""
    generator = torch.Generator().manual_seed(0)
    rows_VD = torch.randn(V, D, generator=generator)
    prior_V = 1000.0 / torch.arange(1, V + 1, dtype=torch.float64)
    truth_V = torch.zeros(V, dtype=torch.float64)
    truth_V[torch.randperm(V, generator=generator)[:10]] = TOTAL / 10
    return rows_VD, prior_V, truth_V


def mean_of(rows_VD, truth_V):
    return truth_V @ rows_VD.double() / truth_V.sum()


def test_a_bare_mean_is_read_word_for_word(text):
    """The attack can do what it says: otherwise its failure at the defence would show nothing."""
    rows_VD, prior_V, truth_V = text
    found_V = invert(mean_of(rows_VD, truth_V), TOTAL, prior_V, rows_VD, 0.0)
    assert share_named(found_V, truth_V) == 1
    assert share_named(expected(prior_V, TOTAL), truth_V) < 0.4


def test_less_is_read_the_more_noise_there_is(text):
    rows_VD, prior_V, truth_V = text
    mean_D, unit_D = mean_of(rows_VD, truth_V), torch.randn(D, generator=torch.manual_seed(1))
    shares = []
    for noise in (1e-4, 0.3, 30.0):
        found_V = invert(mean_D + noise * unit_D, TOTAL, prior_V, rows_VD, noise)
        shares.append(share_named(found_V, truth_V))
    chance = share_named(expected(prior_V, TOTAL), truth_V)
    assert shares[0] > shares[1] > shares[2] - 0.02
    assert shares[2] == pytest.approx(chance, abs=0.02)


def test_rare_is_what_the_other_text_does_not_lead_to_expect(text):
    rows_VD, prior_V, truth_V = text
    found_V = invert(mean_of(rows_VD, truth_V), TOTAL, prior_V, rows_VD, 0.0)
    rare = int(((expected(prior_V, TOTAL) < 1) & (truth_V > 0)).sum())
    assert rare >= 3
    assert rare_named(found_V, prior_V, truth_V, rare) == 1
    assert rare_named(expected(prior_V, TOTAL), prior_V, truth_V, rare) < 0.5


def test_whole_counts_add_up():
    counts = whole(torch.tensor([0.5, 0.26, 0.24, 0.0], dtype=torch.float64), 7)
    assert counts.tolist() == [3, 2, 2, 0]


def test_an_interval_holds_its_mean():
    mean, low, high = interval([0.2, 0.3, 0.4])
    assert low < mean == 0.3 < high
    assert interval([0.5]) == [0.5]
    (line,) = table([{"case": "c", "x": 0.1}, {"case": "c", "x": 0.3}], (), ("x",))
    assert line["x"][0] == 0.2


def test_the_defence_of_the_study_is_the_clients_own(tmp_path):
    """Noise and clip are what `client join` takes by default, and an open owner has neither."""
    made = material.tiny(tmp_path)
    own, others = made.divided("kitchen", 0)
    assert not set(own) & set(others)
    defended, bare = (
        material.given(made, own, (16, 16), case.rules, 0)
        for case in (study.Case(16, 16, True), study.Case(16, 16, False))
    )
    assert defended.noise > 0 == bare.noise
    torch.testing.assert_close(
        bare.mean_D.double(), bare.truth_V @ made.rows_VD.double() / bare.truth_V.sum(),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    assert study.Case(16, 16, True).rules == OwnerPolicy()


def kept_only(kept):
    """What is done is read, and nothing is done a second time."""

    def forbid():
        raise AssertionError("it was worked out again")

    return lambda path, _make, say: kept(path, forbid, say)


def test_the_quick_study_writes_its_result_and_goes_on(tmp_path, monkeypatch):
    quick = (study.Case(16, 16, False), study.Case(16, 16, True))
    monkeypatch.setattr(study, "CASES", quick)
    path = STUDIES["embedding-inversion"]()(out=tmp_path, quick=True, console=Console(quiet=True))
    found = json.loads(path.read_text())
    assert set(found) == {"command", "versions", "seeds", "named", "summary", "told_apart"}
    assert len(found["named"]) == 2 * 2 * 2
    by = {(row["case"], row["known"]): row for row in found["named"]}
    bare, kept = by["16x16-open", "domain"], by["16x16-defended", "domain"]
    assert bare["tokens_named"] > kept["tokens_named"]
    monkeypatch.setattr(study, "kept", kept_only(study.kept))
    assert (
        STUDIES["embedding-inversion"]()(out=tmp_path, quick=True, console=Console(quiet=True))
        == path
    )


def test_there_is_nothing_to_set(tmp_path):
    with pytest.raises(ConfigError, match="no settings"):
        study.run(out=tmp_path, settings=["a=1"], console=Console(quiet=True))
