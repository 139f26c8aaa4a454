"""What a plan needs and lacks is said before it begins."""

from pathlib import Path

import pytest

from fedmore.coordinator.config.schema import load_config, parse_config
from fedmore.coordinator.config.validation import check_plan
from fedmore.experts.errors import BaseError, ConfigError

STAGES = [{"kind": "experts"}, {"kind": "router", "rounds": 1}]


def config(tmp_path, **changes):
    (tmp_path / "public.txt").write_text("public text")
    table = {
        "federation": {"name": "x"},
        "base": {"model": str(tmp_path)},
        "stages": STAGES,
        "router": {"public_text": str(tmp_path / "public.txt")},
    }
    return parse_config(table | changes, "here")


def test_a_whole_plan_passes(tmp_path):
    check_plan(config(tmp_path))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"router": {}}, ConfigError, "router.public_text: name a file"),
        ({"router": {"public_text": "/gone"}}, ConfigError, "router.public_text: /gone"),
        ({"stages": STAGES[:1]}, ConfigError, "domain embeddings .* need a stage"),
        ({"evaluation": {"texts": {"law": "/gone"}}}, ConfigError, "evaluation.texts.law: /gone"),
        ({"base": {"model": "/gone"}}, BaseError, "base.model: /gone"),
    ],
)
def test_what_is_missing_is_named(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        check_plan(config(tmp_path, **changes))


def test_uniform_routing_needs_no_text(tmp_path):
    check_plan(config(tmp_path, router={"kind": "uniform"}, stages=STAGES[:1]))


def test_texts_are_relative_to_the_federation(tmp_path):
    Path(tmp_path / "federation.toml").write_text(
        '[federation]\nname = "x"\n[base]\nmodel = "hub/name"\n'
        '[router]\npublic_text = "public.txt"\n[evaluation.texts]\nlaw = "law/held.jsonl"\n'
    )
    read = load_config(tmp_path)
    assert read.router.public_text == str(tmp_path / "public.txt")
    assert read.evaluation.texts == {"law": str(tmp_path / "law/held.jsonl")}
