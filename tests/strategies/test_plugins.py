"""What an outside package adds: its names count at once, its code is imported when it is used."""

import pytest
import torch
from plugged import CODEC, was_imported

from fedmore.experts.errors import ConfigError, WireError
from fedmore.experts.routers.serialization import CLASSES, make_router, router_class
from fedmore.experts.routers.spec import (
    KINDS,
    LEARNED,
    PER_LAYER,
    ROUTERS,
    RouterSpec,
    is_learned,
    is_per_layer,
)
from fedmore.strategies.compression.codec import CODECS, codec_of, codecs_of, decode, encode
from fedmore.strategies.compression.policy import NAMES, TAGS, plugins_of, policy_of
from fedmore.strategies.expert_stage.advice import inexact
from fedmore.strategies.expert_stage.aggregation import MAKERS, Mean, rule_of
from fedmore.strategies.plugins import TABLES, all_plugins
from fedmore.strategies.stages.expert import RULES, ExpertStage
from fedmore.strategies.stages.kinds import KINDS as STAGE_KINDS
from fedmore.strategies.stages.kinds import STAGES, read_stage, row_of

ROUTER = """
from fedmore.experts.routers.base import Router


class First(Router):
    learned, per_layer = True, True

    def forward(self, x_BTD, slot, memory):
        weights = x_BTD.new_zeros(*x_BTD.shape[:2], self.spec.arms)
        weights[..., 1] = 1
        return weights
"""
RULE = """
from fedmore.strategies.expert_stage.aggregation import Mean


class Equal(Mean):
    separable = False

    def weights(self, changes):
        return [1 / len(changes)] * len(changes)


def equal(stage):
    return Equal(max_client_weight=stage.max_client_weight)
"""


def test_the_built_in_names_are_those_that_are_implemented():
    assert list(CODECS) == list(TAGS) == list(NAMES.names)
    assert tuple(CLASSES) == KINDS == ROUTERS.names
    assert tuple(MAKERS) == RULES.names
    assert tuple(STAGE_KINDS) == STAGES.names
    assert {kind for kind, made in CLASSES.items() if made.learned} == set(LEARNED)
    assert {kind for kind, made in CLASSES.items() if made.per_layer} == set(PER_LAYER)
    assert all_plugins() == ()


def test_a_codec_is_found_by_its_tag_and_travels_there_and_back(plugged):
    plugged.codec()
    assert policy_of("half,norm=fp32").tags["matrix"] == "half"
    assert [str(plugin) for plugin in plugins_of("auto,factor_b=half")] == [
        "codec half (fedmore-extra 1.0)"
    ]
    assert not was_imported()
    tensor = torch.arange(6.0).view(2, 3)
    codecs = codecs_of("half", [(2, 3)])
    assert torch.equal(decode(codecs, encode(codecs, [tensor]), [(2, 3)])[0], tensor)
    assert was_imported()


def test_a_router_is_made_by_its_kind(plugged):
    plugged({"router.first": "extra:First"}, ROUTER)
    spec = RouterSpec("first", 2, 8, 3)
    assert not was_imported()
    assert is_learned("first")
    assert is_per_layer("first")
    assert type(make_router(spec)).__name__ == "First"


def test_a_rule_is_made_for_a_stage_and_says_if_it_tells_owners_apart(plugged):
    plugged({"aggregation.equal": "extra:equal"}, RULE)
    stage = ExpertStage(aggregation="equal")
    assert not was_imported()
    assert isinstance(rule_of(stage), Mean)
    assert inexact(stage)[0].startswith("withdrawal is not exact under equal")


UNKNOWN = {
    "a codec": (lambda: codec_of("twice"), WireError, r"twice.*sign1.*, half$"),
    "a policy": (lambda: policy_of("auto,norm=twice"), WireError, r"twice.*sign1.*, half$"),
    "a router": (lambda: RouterSpec("twice", 2, 8), ConfigError, r"twice.*uniform.*remix, half$"),
    "a stage": (
        lambda: read_stage({"kind": "twice"}),
        ValueError,
        r"kind 'twice': the kinds of stages are experts.*routing, half",
    ),
    "a rule": (
        lambda: ExpertStage(aggregation="twice"),
        ValueError,
        r"no aggregation is called 'twice'; there are mean.*median, half",
    ),
}


@pytest.mark.parametrize(("name", "error", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_name_is_refused_with_the_names_that_there_are(plugged, name, error, message):
    plugged({f"{table.what}.half": "extra:HALF" for table in TABLES}, CODEC)
    with pytest.raises(error, match=message):
        name()
    assert not was_imported()


NAMELESS = {
    "no name": "codec",
    "capitals": "codec.Half",
    "a policy in itself": "codec.half,below=3",
    "a path": "codec.../../half",
}
TAKEN = {
    "a codec's": ("codec.sign1", "is one of fedmore's own"),
    "a policy's": ("codec.auto", "is one of fedmore's own"),
    "a router's": ("router.remix", "is one of fedmore's own"),
    "a rule's": ("aggregation.krum", "is one of fedmore's own"),
    "a stage's": ("stage.routing", "is one of fedmore's own"),
    "a message's": ("stage.embed", "is one of fedmore's own"),
    "no table's": (
        "flavour.sweet",
        "has no 'flavour'; there are codec, router, aggregation, stage",
    ),
}


@pytest.mark.parametrize("entry", NAMELESS.values(), ids=NAMELESS)
def test_a_name_that_is_none_is_one_clear_line(plugged, entry):
    plugged({entry: "extra:HALF"}, CODEC)
    for ask in (all_plugins, lambda: policy_of("twice"), lambda: RouterSpec("twice", 2, 8)):
        with pytest.raises(ConfigError, match=r"fedmore-extra 1\.0: its name is not TABLE.NAME"):
            ask()


@pytest.mark.parametrize(("entry", "message"), TAKEN.values(), ids=TAKEN)
def test_a_name_that_is_taken_is_one_clear_line(plugged, entry, message):
    plugged({entry: "extra:HALF"}, CODEC)
    with pytest.raises(ConfigError, match=message) as raised:
        all_plugins()
    assert "fedmore-extra 1.0" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not was_imported()


def test_two_packages_cannot_add_the_same(plugged):
    plugged.codec()
    plugged({"codec.half": "extra:HALF"}, CODEC, "fedmore-other")
    with pytest.raises(ConfigError, match=r"fedmore-(other|extra) 1\.0 adds the same name"):
        codec_of("half")


BROKEN = {
    "no module": ("absent.module:HALF", CODEC, "ModuleNotFoundError"),
    "no such thing in it": ("extra:THIRD", CODEC, "AttributeError"),
    "a module that fails": ("extra:HALF", "raise OSError('no\\nlicence')", "OSError: no licence"),
    "not of Python": ("extra:HALF", "def", "SyntaxError"),
}


@pytest.mark.parametrize("table", [table.what for table in TABLES])
@pytest.mark.parametrize(("value", "code", "reason"), BROKEN.values(), ids=BROKEN)
def test_one_that_cannot_be_imported_is_one_clear_line(plugged, table, value, code, reason):
    plugged({f"{table}.half": value}, code)
    load = {
        "codec": lambda: codec_of("half"),
        "router": lambda: router_class("half"),
        "aggregation": lambda: rule_of(ExpertStage(aggregation="half")),
        "stage": lambda: row_of("half"),
    }[table]
    with pytest.raises(ConfigError, match=f"plugin {table} half.*cannot be loaded") as raised:
        load()
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


WRONG = {
    "a class for a codec": (lambda: codec_of("half"), "codec.half", "extra:Halved", "not a codec"),
    "another tag": (lambda: codec_of("third"), "codec.third", "extra:HALF", "has the tag 'half'"),
    "a codec for a router": (
        lambda: router_class("half"), "router.half", "extra:HALF", "not a subclass of",
    ),
    "a codec for a rule": (
        lambda: rule_of(ExpertStage(aggregation="half")), "aggregation.half", "extra:HALF",
        "cannot be called",
    ),
    "a codec for a stage": (
        lambda: row_of("half"), "stage.half", "extra:HALF", "not a fedmore.strategies.StageKind",
    ),
    "a maker of no rule": (
        lambda: rule_of(ExpertStage(aggregation="half")), "aggregation.half", "extra:str",
        "not a rule",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("load", "entry", "value", "message"), WRONG.values(), ids=WRONG)
def test_one_of_another_kind_is_one_clear_line(plugged, load, entry, value, message):
    plugged({entry: value}, CODEC + "\n\nfrom builtins import str\n")
    with pytest.raises(ConfigError, match=message) as raised:
        load()
    assert "fedmore-extra 1.0" in str(raised.value)
