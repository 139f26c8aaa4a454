"""What an operator is told before a stage starts, and with a round."""

from dataclasses import replace

import pytest
from flwr.app import ArrayRecord

from fedmore.experts.errors import ConfigError
from fedmore.experts.spec import ExpertSpec
from fedmore.strategies.expert_stage.advice import before, stuck
from fedmore.strategies.expert_stage.state import fresh
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.stages.expert import SEPARABLE, ExpertStage, LanguageStage

RULES = ("mean", "clipped", "krum", "multi_krum", "trimmed_mean", "median")


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_does_not_tell_owners_apart_says_so(shapes, rule):
    told = before(ExpertStage(aggregation=rule), shapes)
    if rule in SEPARABLE:
        assert told == []
    else:
        assert told[0].startswith(f"withdrawal is not exact under {rule}: ")


@pytest.mark.parametrize(
    ("kind", "layers", "told"),
    [
        (LanguageStage, {"first_layers": 10, "last_layers": 2}, True),
        (LanguageStage, {"first_layers": 2, "last_layers": 1}, True),
        (LanguageStage, {"first_layers": 1, "last_layers": 1}, False),
        (ExpertStage, {}, False),
    ],
)
def test_adapters_of_every_layer_are_not_selective(shapes, kind, layers, told):
    found = before(kind(**layers), shapes)
    first, last = layers.values() if layers else (0, 0)
    assert [line.split(":")[0] for line in found] == told * [
        f"first_layers {first} and last_layers {last} are all 3 layers of the base"
    ]


def test_adapters_of_no_layer_are_refused_with_what_is_wrong(shapes):
    with pytest.raises(ValueError, match="both 0: a language adapter would change no layer"):
        LanguageStage(first_layers=0, last_layers=0)
    spec = ExpertSpec("gl", "adapter", "gl", 2, 0, 0)
    with pytest.raises(ConfigError, match="both 0, so the adapter changes no layer"):
        spec.sites(shapes)


@pytest.mark.parametrize(("streak", "told"), [(2, 0), (3, 1)])
def test_owners_chosen_again_and_again_are_named(streak, told):
    state = replace(fresh("legal", "expert", ()), chosen=("eve",), streak=streak)
    found = stuck(ExpertStage(aggregation="krum"), {"legal": state})
    wanted = f"legal: krum has chosen eve in {streak} rounds running; the other owners' work is"
    assert [line[: len(wanted)] for line in found] == told * [wanted]


def test_krum_that_locks_on_to_one_owner_says_so(fake_grid, fake_client, shapes, new_log):
    """Three that agree and one that trains at half their pace: the rule takes the same one."""
    stage = ExpertStage(4, 2, learning_rate=0.1, aggregation="krum", malicious_fraction=0.0)
    log = new_log()
    strategy = ExpertStrategy(stage, shapes, 7, log)
    grid = fake_grid([fake_client("a", rank=1), *(fake_client(n, rank=6) for n in "bcd")])
    strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=4, timeout=0.2)
    assert [len(metrics["warnings"]) for _, metrics, _ in log] == [0, 0, 1, 1]
    assert strategy.states["legal"].chosen == ("a",)
