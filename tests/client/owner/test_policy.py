"""The owner's policy: read strictly, and its floors."""

from dataclasses import fields, replace

import pytest

from fedmore.client.owner.policy import OwnerPolicy, dump_policy, parse_policy, read_policy
from fedmore.experts.errors import ConfigError
from fedmore.strategies.stages.expert import ExpertStage


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / "owner.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_a_file_says_what_differs_from_the_defaults(write):
    path = write('codecs = ["sign1"]\nrounds_per_day = 3\nconsent = "bounds"\n')
    assert read_policy(path) == OwnerPolicy(codecs=("sign1",), rounds_per_day=3, consent="bounds")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_rate = 1", "max_rate"),
        ("min_tokens = '9'", "min_tokens"),
        ("min_tokens = 0", "min_tokens must be above 0"),
        ('codecs = ["zip"]', "zip is not among"),
        ("codecs = []", "none is not among"),
        ('consent = "no"', "consent"),
        ("max_learning_rate = nan", "max_learning_rate"),
        ("a = [", "not valid TOML"),
        ("a = " + "[" * 3000 + "]" * 3000, "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(write, text, says):
    with pytest.raises(ConfigError, match=r"owner\.toml") as raised:
        read_policy(write(text))
    assert says in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy(tmp_path / "none.toml")


def test_it_passes_through_a_node_config():
    policy = OwnerPolicy(codecs=("nf4",), max_worse=0.5)
    assert parse_policy(dump_policy(policy)) == policy
    assert parse_policy("") == OwnerPolicy()


def test_full_precision_leaves_only_by_the_owners_word():
    assert not {"fp32", "bf16"} & set(OwnerPolicy().codecs)


def test_more_directions_and_more_bits_need_more_text():
    policy = OwnerPolicy()
    needs = [policy.tokens_needed(rank, ["sign1"]) for rank in (4, 64, 256, 1024)]
    assert needs == [1024, 1152, 4608, 18432]
    by_codec = [
        policy.tokens_needed(256, [tag]) for tag in ("sign1", "nf4", "int8", "bf16", "fp32")
    ]
    assert by_codec == [4608, 6144, 8192, 12288, 20480]
    assert policy.tokens_needed(256, ["sign1", "fp32"]) == 20480


BOUNDED = [f.name for f in fields(OwnerPolicy) if f.name.startswith("max_")]


@pytest.mark.parametrize(
    "name", ["rounds", "steps", "batch_size", "sequence_length", "learning_rate", "threads"]
)
def test_every_setting_has_a_bound(name):
    policy = OwnerPolicy()
    bound = getattr(policy, f"max_{name}")
    inside = replace(ExpertStage(), **{name: bound})
    assert policy.excess("experts", inside) == []
    (line,) = policy.excess("experts", replace(inside, **{name: bound * 2}))
    assert line == f"experts: {name} is {bound * 2}, the owner's bound is {bound}"
