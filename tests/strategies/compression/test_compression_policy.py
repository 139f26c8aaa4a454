"""Which codec a tensor gets, by role and size."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmore.experts.errors import WireError
from fedmore.strategies.compression.codec import CODECS, codecs_of
from fedmore.strategies.compression.policy import (
    AUTO,
    ROLES,
    TAGS,
    WEIGHT_TAGS,
    factor_roles,
    for_changes,
    is_coarse,
    policy_of,
)
from fedmore.strategies.stages.router import RouterStage


@pytest.mark.parametrize("tag", TAGS)
def test_the_name_of_a_codec_is_that_codec_for_everything(tag):
    policy = policy_of(tag)
    assert {policy.tag(role, count) for role in ROLES for count in (0, 1, 10**9)} == {tag}


def test_auto_sends_what_is_large_and_trained_at_one_bit_and_the_rest_exactly():
    large = {role: policy_of("auto").tag(role, 10_000) for role in ROLES}
    assert large == {
        "factor_a": "sign1", "factor_b": "sign1", "matrix": "sign1",
        "embedding": "fp32", "router": "fp32", "norm": "fp32",
    }  # fmt: skip
    assert {policy_of("auto").tag(role, 255) for role in ROLES} == {"fp32"}
    assert policy_of("auto").tag("factor_a", 256) == "sign1"


def test_roles_and_sizes_can_be_changed():
    policy = policy_of("sign1,factor_b=nf4,small=bf16,below=100")
    assert policy.tag("factor_a", 100) == "sign1"
    assert policy.tag("factor_b", 100) == "nf4"
    assert policy.tag("factor_b", 99) == "bf16"
    assert policy_of("auto").tags == AUTO.tags


def test_codecs_of_weights_are_not_for_changes():
    assert {tag for tag in TAGS if not for_changes(tag)} == set(WEIGHT_TAGS.values())
    assert for_changes("auto,factor_b=nf4")
    assert not for_changes("auto,factor_b=bits4")
    assert not for_changes("sign1,small=bits1,below=9")


def test_every_role_of_auto_has_a_codec_there_is():
    assert set(AUTO.tags) == set(ROLES)
    assert {*AUTO.tags.values(), AUTO.small} <= set(CODECS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown codec ''"),
        ("zip", "unknown codec 'zip'; known are fp32, bf16, int8, nf4, sign1, bitdelta"),
        ("auto,factor_a=zip", "unknown codec 'zip' in 'auto,factor_a=zip'"),
        ("auto,head=fp32", "nothing is called 'head'; there are factor_a"),
        ("auto,factor_a", "unknown codec ''"),
        ("sign1,", "nothing is called ''"),
        ("sign1,below=-1", "below=-1 is not a number of numbers"),
        ("sign1,below=1e3", "below=1e3 is not"),
        ("sign1,below=99999999999", "is not a number of numbers"),
        ("sign1,small=", "unknown codec ''"),
        (" sign1", "unknown codec ' sign1'"),
    ],
)
def test_what_is_no_policy_is_refused(text, says):
    with pytest.raises(WireError, match=says):
        policy_of(text)


@settings(deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"(auto|sign1)(,(factor_a|below|small)=\w{0,5}){0,3}"))
def test_any_text_is_a_policy_or_the_wire_error(text):
    try:
        policy = policy_of(text)
    except WireError:
        return
    assert all(policy.tag(role, count) in CODECS for role in ROLES for count in (0, 300))


def test_factors_go_a_before_b():
    assert list(factor_roles(5)) == ["factor_a", "factor_b", "factor_a", "factor_b", "factor_a"]
    chosen = codecs_of("fp32,factor_b=bf16", [(2, 300), (300, 2), (1, 1), (1, 1)])
    assert [codec.tag for codec in chosen] == ["fp32", "bf16", "fp32", "bf16"]
    named = codecs_of("auto", [(3, 200), (900,), ()], ["matrix", "router", "norm"])
    assert [codec.tag for codec in named] == ["sign1", "fp32", "fp32"]


def test_a_plan_can_be_checked_without_torch():
    code = "import sys, fedmore.strategies.compression.policy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("text", "coarse"),
    [
        ("fp32", False),
        ("bf16", False),
        ("bf16,factor_a=fp32", False),
        ("fp32,small=sign1", False),
        ("fp32,small=sign1,below=9", True),
        ("fp32,router=sign1", False),
        ("sign1", True),
        ("auto", True),
        ("bf16,factor_b=nf4", True),
        *((tag, True) for tag in ("int8", "nf4", "bitdelta")),
    ],
)
def test_what_is_too_coarse_for_whole_factors(text, coarse):
    assert is_coarse(text) == coarse


def test_a_routing_stage_sends_whole_experts_with_fine_codecs_only():
    assert RouterStage(download_codec="fp32").download_codec == "fp32"
    with pytest.raises(
        ValueError, match="whole experts, for which 'sign1' is too coarse; take fp32"
    ):
        RouterStage(download_codec="sign1")
