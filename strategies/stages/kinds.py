"""The kinds of stages, one row each: what a kind's settings are, and who does what for it.

A kind from outside is a folder of its own and a row: `register` it in both programs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, TypeAdapter

from fedmore.experts.errors import ConfigError
from fedmore.strategies.settings import parse
from fedmore.strategies.stages.base import Stage, TrainingStage
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage, FactorStage, LanguageStage
from fedmore.strategies.stages.former_settings import without_former
from fedmore.strategies.stages.router import RouterStage

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """One kind of stage.

    The last four are names ("module:object"), which only the program that needs the object
    imports: neither program has the other's, and `--help` has none.

    Args:
        stage: the class of its settings.
        message_type: of its tasks. Kinds with one message type have the last three alike.
        runner: a `fedmore.coordinator.run.stage_runner.StageRunner`.
        task: a `fedmore.strategies.tasks.schema.TaskSchema`.
        rules: a `fedmore.client.egress.answer_rules.AnswerRules`.
        work: a function of a `fedmore.strategies.tasks.base.Request` and the client's
            `fedmore.client.owner.node_config.Node` that does the task and returns the content of
            the answer.

    """

    stage: type[Stage]
    message_type: str
    runner: str
    task: str
    rules: str
    work: str

    @property
    def kind(self) -> str:
        """The name in `federation.toml`, in the registry and on the wire."""
        return self.stage.kind


_FACTORS = {
    "message_type": "train",
    "runner": "fedmore.coordinator.run.expert_stage:RUNNER",
    "task": "fedmore.strategies.expert_stage.agreement:TASK",
    "rules": "fedmore.client.egress.expert_rules:RULES",
    "work": "fedmore.client.training.expert_work:train_answer",
}
_ROWS = (
    StageKind(stage=ExpertStage, **_FACTORS),
    StageKind(stage=LanguageStage, **_FACTORS),
    StageKind(
        stage=EmbeddingStage,
        message_type="train.embed",
        runner="fedmore.coordinator.run.embedding_stage:RUNNER",
        task="fedmore.strategies.embedding_stage.agreement:TASK",
        rules="fedmore.client.egress.embedding_rules:RULES",
        work="fedmore.client.training.embedding_work:embedding_answer",
    ),
    StageKind(
        stage=RouterStage,
        message_type="train.route",
        runner="fedmore.coordinator.run.router_stage:RUNNER",
        task="fedmore.strategies.router_stage.agreement:TASK",
        rules="fedmore.client.egress.router_rules:RULES",
        work="fedmore.client.training.router:routed",
    ),
)
KINDS: dict[str, StageKind] = {row.kind: row for row in _ROWS}
"""The row of each kind of stage."""


def register(row: StageKind) -> None:
    """Add a kind; raises `ConfigError` if another one has its name or does its tasks otherwise."""
    if not row.kind or KINDS.get(row.kind, row) != row:
        raise ConfigError(f"a kind of stage {row.kind!r} cannot be added: the name is taken")
    for other in kinds_asking(row.message_type):
        if (other.task, other.rules, other.work) != (row.task, row.rules, row.work):
            raise ConfigError(
                f"the stages {row.kind!r} cannot ask for {row.message_type!r}: that is answered as "
                f"a task of the stages {other.kind!r}"
            )
    KINDS[row.kind] = row


def expert_kinds() -> list[str]:
    """The names of the kinds of stages that make experts or adapters."""
    return [row.kind for row in KINDS.values() if issubclass(row.stage, FactorStage)]


def trains_on_text(kind: str) -> bool:
    """Whether the clients of a kind of stage train, so that its rounds count tokens."""
    return kind in KINDS and issubclass(KINDS[kind].stage, TrainingStage)


def kind_of(stage: Stage) -> StageKind:
    """The row of a stage."""
    return KINDS[stage.kind]


def kinds_asking(message_type: str) -> list[StageKind]:
    """The rows whose tasks are messages of this type; none if there is no such task."""
    return [row for row in KINDS.values() if row.message_type == message_type]


def load(name: str, wanted: type[T]) -> T:
    """The object with a row's name; raises `ConfigError` if it is not there or something else."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"a kind of stage names {name}, which is not there: {error}") from error
    if not isinstance(found, wanted):
        raise ConfigError(f"a kind of stage names {name}, which is no {wanted.__name__}")
    return found


def read_stage(value: Any) -> Stage:
    """A stage from its table; raises `ValueError`, or pydantic's error with the path of a key."""
    if isinstance(value, Stage):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"a stage is a table, not {value!r}")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind {kind!r}: the kinds of stages are {', '.join(KINDS)}")
    found = KINDS[kind].stage
    return parse(_reader(found), without_former(value, {f.name for f in fields(found)}))


@cache
def _reader(stage: type[Stage]) -> TypeAdapter[Stage]:
    return TypeAdapter(stage)


AnyStage = Annotated[Stage, PlainValidator(read_stage)]
"""A stage of whichever kind its table says."""
