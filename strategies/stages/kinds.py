"""The kinds of stages, and how a stage is read: by its `kind`, with that kind's own settings."""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter

from fedmore.strategies.settings import parse
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage, FactorStage, LanguageStage
from fedmore.strategies.stages.former_settings import without_former
from fedmore.strategies.stages.router import RouterStage

STAGES: dict[str, type[Stage]] = {
    stage.kind: stage for stage in (ExpertStage, LanguageStage, EmbeddingStage, RouterStage)
}
"""The class of each kind of stage."""


def read_stage(value: Any) -> Stage:
    """A stage from its table; raises `ValueError`, or pydantic's error with the path of a key."""
    if isinstance(value, Stage):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"a stage is a table, not {value!r}")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in STAGES:
        raise ValueError(f"kind {kind!r}: the kinds of stages are {', '.join(STAGES)}")
    found = STAGES[kind]
    return parse(_reader(found), without_former(value, {f.name for f in fields(found)}))


@cache
def _reader(stage: type[Stage]) -> TypeAdapter[Stage]:
    return TypeAdapter(stage)


AnyStage = Annotated[Stage, PlainValidator(read_stage)]
"""A stage of whichever kind its table says."""


def makes_experts(kind: str) -> bool:
    """Whether a kind of stage makes experts or adapters."""
    return kind in expert_kinds()


def expert_kinds() -> dict[str, str]:
    """The kinds of stages that make experts, and the kind of client that trains in each."""
    return {kind: stage.trains for kind, stage in STAGES.items() if issubclass(stage, FactorStage)}
