"""Stages as earlier versions wrote them, with every setting on every kind, read as they did."""

import json
from dataclasses import asdict, fields

import pytest
from pydantic import ValidationError
from stages import OWN_FACTORS

from fedmore.strategies.stages.expert import ExpertStage, FactorStage, LanguageStage
from fedmore.strategies.stages.former_settings import FORMER, REFUSED
from fedmore.strategies.stages.kinds import KINDS, read_stage
from fedmore.strategies.terms import RouterTerms, Terms, changes, read_terms

OTHER = {
    "warm_up": "every_round", "late_updates": "drop", "aggregation": "clipped", "codec": "fp32",
    "rank_scaling": "rslora", "round_start": "aggregate", "download_codec": "fp32",
    "rank_learning_rates": [[8, 0.5]],
}  # fmt: skip
"""Another allowed value of each setting that is no number."""

ROUTER = RouterTerms(
    kind="domain", granularity="sequence", prefix_tokens=32, top_k=2, scaling="lora", init="zero",
    num_selections=4, entropy_weight=0.0, z_loss_weight=1e-3,
)  # fmt: skip

DEFAULTS = OWN_FACTORS | {"learning_rate": 1e-3}
"""What stages of that time had where nothing was said."""

COMMON = {"timeout_s": 60.0, "deadline_s": 1.0, "quorum_fraction": 0.5}


def former(kind, **changed):
    """A stage's table as every earlier version wrote it."""
    return {"kind": kind, **FORMER, **COMMON, **changed}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_key_on_every_stage_is_read(kind):
    read = read_stage(former(kind))
    made = KINDS[kind].stage
    own = DEFAULTS if issubclass(made, FactorStage) else {}
    assert asdict(read) == asdict(made(**COMMON, **own))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", sorted(FORMER.keys() - {"weight_bits", "aggregation"}))
def test_a_setting_counts_on_the_kinds_that_use_it_and_nowhere_else(kind, name):
    value = OTHER.get(name, 0.25 if isinstance(FORMER[name], float) else 1)
    table = former(kind, **{name: value})
    if name == "clip_norm" and hasattr(KINDS[kind].stage, name):
        table["aggregation"] = "clipped"
    if name in REFUSED.get(kind, ()):
        with pytest.raises(ValidationError, match=name):
            read_stage(table)
        return
    uses = name in {f.name for f in fields(KINDS[kind].stage)}
    assert (read_stage(table) != read_stage(former(kind))) == uses


@pytest.mark.parametrize(
    "wrong",
    [{"steps": "5"}, {"codec": 1}, {"learning_rate": True}, {"rounds": 1.5}, {"reads_text": 1}],
    ids=str,
)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_unknown_key_or_a_wrong_type_is_refused_on_every_kind(kind, wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        read_stage(former(kind, **wrong))


@pytest.mark.parametrize("table", [{}, {"kind": "expert"}, {"kind": 1}, {"kind": []}, [], "x"])
def test_what_is_of_no_kind_is_refused_with_the_kinds_that_there_are(table):
    with pytest.raises(ValueError, match=r"a stage is a table|the kinds of stages are experts"):
        read_stage(table)


def test_an_owner_who_agreed_to_a_plan_of_an_earlier_version_is_not_asked_again():
    """Its `plan.json` has every key on every stage, and the coordinator now says fewer."""
    stages = [former("experts", **FEW), former("language", **FEW), former("router", **FEW)]
    told = [
        {**stage, "timeout_s": 3600.0, "deadline_s": 0.0, "quorum_fraction": 0.0}
        for stage in stages
    ]
    agreed = {"seed": 0, "stages": told, "router": asdict(ROUTER)}
    now = Terms(
        seed=0,
        stages=(
            ExpertStage(steps=3, **DEFAULTS),
            LanguageStage(steps=3, first_layers=4, **DEFAULTS),
            read_stage(told[2]),
        ),
        router=ROUTER,
    )
    assert read_terms(json.dumps(agreed)) == now == read_terms(now.dump())
    assert changes(read_terms(json.dumps(agreed)), now) == []


FEW = {"steps": 3, "first_layers": 4}


def test_a_client_of_an_earlier_version_reads_the_rounds_of_every_stage():
    """It takes three for a stage that says none."""
    terms = Terms(seed=0, stages=tuple(row.stage() for row in KINDS.values()), router=ROUTER)
    assert [s["rounds"] for s in json.loads(terms.dump())["stages"]] == [3, 3, 1, 3]
