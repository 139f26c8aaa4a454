"""What a person is told of a wrong `federation.toml`: path, fault, and what the key is for."""

from typing import Any

import pytest

from fedmore.coordinator.config.schema import parse_config
from fedmore.experts.errors import ConfigError

PLAN: dict[str, Any] = {"federation": {"name": "x"}, "base": {"model": "m"}}

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a wrong type": (
        {"server": {"port": "1"}},
        "server.port: Input should be a valid integer (port: 0 takes a free one)",
    ),
    "a wrong word": (
        {"withdrawal": {"when_worse": "cry"}},
        "withdrawal.when_worse: Input should be 'scale', 'recover', 'hold' or 'keep' "
        "(when_worse: scale what is left by one factor; recover, hold it back or keep it)",
    ),
    "a check of a section": (
        {"router": {"steps": 0}},
        "router: steps must be above 0, not 0 (steps: optimiser steps at the coordinator)",
    ),
    "a check of a stage": (
        {"stages": [{"kind": "experts", "rounds": 0}]},
        "stages[0]: rounds must be above 0, not 0 "
        "(rounds: how often the clients train and the results are aggregated)",
    ),
    "a wrong type in a stage": (
        {"stages": [{"kind": "experts"}, {"kind": "routing", "steps": "many"}]},
        "stages[1].steps: Input should be a valid integer "
        "(steps: optimiser steps per client and round)",
    ),
    "a slip of the pen": (
        {"federation": {"name": "x", "client": 3}},
        "federation.client: there is no such key here; clients is: "
        "number of clients that must be connected when the plan begins",
    ),
    "a key of another kind of stage": (
        {"stages": [{"kind": "router", "zzz": 1}]},
        "stages[0].zzz: there is no such key here",
    ),
    "an unknown section": (
        {"rooter": {}},
        "rooter: there is no such key here; router is one",
    ),
    "a kind that there is not": (
        {"stages": [{"kind": "expert"}]},
        "stages[0]: kind 'expert': the kinds of stages are",
    ),
    "no base": (
        {"base": {}},
        "base.model: name a folder or a model on the hub",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_told_in_one_line_with_what_the_key_means(case: str) -> None:
    change, told = CASES[case]
    with pytest.raises(ConfigError) as caught:
        parse_config(PLAN | change, "here")
    assert str(caught.value).startswith(f"here: {told}")
    assert "Value error" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_faults_are_both_told() -> None:
    with pytest.raises(ConfigError, match=r"server\.port: .*; router\.steps: "):
        parse_config(PLAN | {"server": {"port": "1"}, "router": {"steps": "2"}}, "here")
