"""`fedmore sim codecs`: what is run, what is compared, and that a stopped study goes on."""

import json

import pytest

from fedmore.experts.errors import ConfigError, WireError
from fedmore.sims.scenarios.smoke import smoke
from fedmore.sims.studies import codecs
from fedmore.sims.studies.codecs import Outcome, costs, study, table_of, write


def outcome(seed, codec, legal, medical):
    return Outcome(seed, codec, {"legal": legal, "medical": medical}, None, "payload", 100)


OUTCOMES = [
    outcome(0, "fp32", 1.0, 2.0),
    outcome(0, "sign1", 1.01, 2.0),
    outcome(1, "fp32", 2.0, 1.0),
    outcome(1, "sign1", 2.06, 0.99),
]


def test_costs_are_paired_by_seed():
    legal, medical = costs(OUTCOMES)
    assert (legal.codec, legal.text) == ("sign1", "legal")
    assert legal.percent == pytest.approx((1.0, 3.0))
    assert legal.mean == pytest.approx(2.0)
    assert medical.percent == pytest.approx((0.0, -1.0))


def test_the_result_is_written_and_shown(tmp_path):
    path = write(smoke(), "local", OUTCOMES, tmp_path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["scenario"], found["baseline"], len(found["runs"])) == ("smoke", "fp32", 4)
    assert found["costs"][0]["mean"] == pytest.approx(2.0)
    assert table_of(OUTCOMES).row_count == 2


@pytest.mark.parametrize(("tags", "seeds"), [([], [0]), (["fp32", "fp32"], [0]), (["fp32"], [])])
def test_a_list_of_nothing_or_with_one_twice_is_refused(tmp_path, tags, seeds):
    with pytest.raises(ConfigError, match="give at least one, each once"):
        study(smoke(), tags, seeds, "local", tmp_path)
    with pytest.raises(WireError, match="unknown codec 'zip'"):
        study(smoke(), ["fp32", "zip"], [0], "local", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_codec_of_weights_sets_what_is_trained():
    assert codecs._codec_settings(smoke(), "nf4") == ["stages.0.codec=nf4", "stages.1.codec=nf4"]
    assert codecs._codec_settings(smoke(), "bits2") == [
        "stages.0.weight_bits=2", "stages.0.round_start=own",
        "stages.1.weight_bits=2", "stages.1.round_start=own",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_study_of_the_small_scenario(tmp_path, monkeypatch):
    shorter = ["stages.0.rounds=1", "stages.1.rounds=1", "stages.0.steps=1", "stages.1.steps=1"]
    (first,) = study(smoke(), ["sign1"], [3], "local", tmp_path, shorter)
    assert (first.seed, first.codec) == (3, "sign1")
    assert set(first.bits_per_byte) == {"kitchen", "garden", "xx"}
    assert first.bytes_up_if_fp32 > 100_000
    assert [p.name for p in tmp_path.iterdir()] == ["seed-3-sign1"]
    monkeypatch.setattr(codecs, "run", None)  # nothing is run again
    assert study(smoke(), ["sign1"], [3], "local", tmp_path, shorter) == [first]
