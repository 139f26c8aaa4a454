"""What happens between clients: Flower strategies, aggregation, compression."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmore.strategies.compression.codec import Codec
    from fedmore.strategies.expert_stage.aggregation import Mean, Rule
    from fedmore.strategies.expert_stage.changes import Change
    from fedmore.strategies.expert_stage.cores import cores_of
    from fedmore.strategies.stages.expert import FactorStage
else:
    from importlib import import_module

    _HOMES = {
        "Change": "expert_stage.changes",
        "Codec": "compression.codec",
        "FactorStage": "stages.expert",
        "Mean": "expert_stage.aggregation",
        "Rule": "expert_stage.aggregation",
        "cores_of": "expert_stage.cores",
    }

    def __getattr__(name):
        """Import what is exported when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__():
        return __all__


__all__ = [
    "Change",
    "Codec",
    "FactorStage",
    "Mean",
    "Rule",
    "cores_of",
]
