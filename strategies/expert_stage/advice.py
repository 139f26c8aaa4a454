"""What an operator is told of a stage: before it starts, and with a round."""

from collections.abc import Mapping

from fedmore.experts.spec import Shapes, depth
from fedmore.strategies.expert_stage.aggregation import rule_of
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.stages.expert import SEPARABLE, FactorStage, LanguageStage


def before(stage: FactorStage, shapes: Shapes) -> list[str]:
    """What is worth a word before the stage starts over a base of these matrices."""
    return inexact(stage) + unselective(stage, shapes)


def unselective(stage: FactorStage, shapes: Shapes) -> list[str]:
    """What to tell an operator whose language adapters change every layer."""
    layers = depth(shapes)
    if not isinstance(stage, LanguageStage) or sum(stage.layers) < layers:
        return []
    first, last = stage.layers
    return [
        f"first_layers {first} and last_layers {last} are all {layers} layers of the base: the "
        "adapter is not selective; lower them to leave the middle as it is"
    ]


def inexact(stage: FactorStage) -> list[str]:
    """What to tell an operator before a stage whose rule does not tell owners apart."""
    if rule_of(stage).separable:
        return []
    return [
        f"withdrawal is not exact under {stage.aggregation}: what it makes of a round cannot be "
        f"told apart by owner; {', '.join(SEPARABLE)} can be"
    ]


PATIENCE = 3
"""Number of rounds running with the same chosen owners after which the operator is told."""


def stuck(stage: FactorStage, states: Mapping[str, ExpertState]) -> list[str]:
    """What to tell an operator whose rule has left out the same owners again and again."""
    return [
        f"{name}: {stage.aggregation} has chosen {', '.join(state.chosen)} in {state.streak} "
        "rounds running; the other owners' work is not used"
        for name, state in sorted(states.items())
        if state.streak >= PATIENCE
    ]


def unguarded(stage: FactorStage, owners: Mapping[str, int]) -> list[str]:
    """What to tell an operator whose rule has too few owners of an expert to cut anybody off."""
    if stage.aggregation in ("mean", "clipped", "median") or not stage.malicious_fraction:
        return []
    return [
        f"{name}: {stage.aggregation} withstands no hostile owner: {count} "
        f"{'owner is' if count == 1 else 'owners are'} fewer than 1 / malicious_fraction "
        f"({stage.malicious_fraction})"
        for name, count in sorted(owners.items())
        if not int(stage.malicious_fraction * count)
    ]
