"""What happens between clients: Flower strategies, aggregation, compression."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmore.strategies.compression.codec import Codec
    from fedmore.strategies.expert_stage.aggregation import Mean, Rule
    from fedmore.strategies.expert_stage.changes import Change
    from fedmore.strategies.expert_stage.cores import cores_of
    from fedmore.strategies.stages.base import Stage
    from fedmore.strategies.stages.expert import FactorStage
    from fedmore.strategies.stages.kinds import StageKind
    from fedmore.strategies.tasks.base import Request, read_request
    from fedmore.strategies.tasks.schema import TaskSchema
else:
    from importlib import import_module

    _HOMES = {
        "Change": "expert_stage.changes",
        "Codec": "compression.codec",
        "FactorStage": "stages.expert",
        "Mean": "expert_stage.aggregation",
        "Request": "tasks.base",
        "Rule": "expert_stage.aggregation",
        "Stage": "stages.base",
        "StageKind": "stages.kinds",
        "TaskSchema": "tasks.schema",
        "cores_of": "expert_stage.cores",
        "read_request": "tasks.base",
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
    "Request",
    "Rule",
    "Stage",
    "StageKind",
    "TaskSchema",
    "cores_of",
    "read_request",
]
