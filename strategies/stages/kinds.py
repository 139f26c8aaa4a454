"""The kinds of stages, one row each: what a kind's settings are, and who does what for it.

A kind from outside is a package with a row, as the plugin `stage.KIND` of that name.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from typing import Annotated, Any, TypeVar, cast

from pydantic import PlainValidator, TypeAdapter, ValidationInfo

from fedmore.experts.errors import ConfigError
from fedmore.experts.former_names import STAGE, today
from fedmore.experts.plugins import Table
from fedmore.strategies.settings import parse
from fedmore.strategies.stages.base import Stage, TrainingStage
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage, FactorStage, LanguageStage
from fedmore.strategies.stages.former_settings import without_former
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.stages.unread import UnreadStage

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
KINDS: Mapping[str, StageKind] = {row.kind: row for row in _ROWS}
"""The row of each kind of stage that is fedmore's own."""

STAGES = Table("stage", tuple(KINDS), reserved=("default", "embed", "route"))
"""The names of all kinds, those of plugins among them; `train.default` is Flower's for `train`."""


def row_of(kind: str) -> StageKind:
    """The row of a kind; a plugin's is imported, or `ConfigError` raised."""
    if kind in KINDS:
        return KINDS[kind]
    return cast(StageKind, STAGES.load(kind, lambda made: _fault(kind, made)))


def _fault(kind: str, made: object) -> str:
    """What is wrong with a plugin's row: it has a name and tasks of its own, or fedmore's tasks."""
    if not isinstance(made, StageKind):
        return "is not a fedmore.strategies.StageKind"
    if made.kind != kind:
        return f"is of the stages {made.kind!r}"
    same = [row for row in KINDS.values() if row.message_type == made.message_type]
    if not same and made.message_type != message_type_of(kind):
        return f"asks for {made.message_type!r}, not for {message_type_of(kind)!r}"
    for row in same:
        if (row.task, row.rules, row.work) != (made.task, made.rules, made.work):
            return f"cannot ask for {made.message_type!r} as the stages {row.kind!r} do"
    return ""


def message_type_of(kind: str) -> str:
    """The type of the tasks of a plugin's kind, unless they are tasks of fedmore's own stages.

    It names the plugin, so that a client knows from the type what it would import.
    """
    return f"train.{kind}"


def message_types() -> list[str]:
    """The types of all tasks that are known, from metadata alone."""
    own = dict.fromkeys(row.message_type for row in KINDS.values())
    return [*own, *map(message_type_of, STAGES.plugins)]


def expert_kinds() -> list[str]:
    """The names of fedmore's own kinds of stages that make experts or adapters."""
    return [row.kind for row in KINDS.values() if issubclass(row.stage, FactorStage)]


def trains_on_text(kind: str) -> bool:
    """Whether the clients of a kind of stage train, so that its rounds count tokens."""
    return kind in STAGES and issubclass(row_of(kind).stage, TrainingStage)


def kind_of(stage: Stage) -> StageKind:
    """The row of a stage."""
    return row_of(stage.kind)


def kinds_asking(message_type: str, stage: str = "") -> list[StageKind]:
    """The rows whose tasks are messages of this type; none if there is no such task.

    Of the plugins only those are imported that the type names, or the `stage` of the task.
    """
    named = STAGES.added({message_type.partition(".")[2], stage})
    rows = [*KINDS.values(), *(row_of(plugin.name) for plugin in named)]
    return [row for row in rows if row.message_type == message_type]


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


def read_stage(value: Any, plugins: Collection[str] | None = None) -> Stage:
    """A stage from its table; raises `ValueError`, or pydantic's error with the path of a key.

    Of a plugin whose key is not in `plugins` nothing is imported, and its stage is left unread.
    None allows all that are installed.
    """
    if isinstance(value, Stage):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"a stage is a table, not {value!r}")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in STAGES:
        raise ValueError(f"kind {kind!r}: the kinds of stages are {STAGES.listed()}")
    if plugins is not None and any(each.key not in plugins for each in STAGES.added([kind])):
        return UnreadStage(kind=kind, settings=dict(value))
    found = row_of(kind).stage
    known = {f.name for f in fields(found)}
    return parse(_reader(found), without_former(today(value, STAGE, known), known))


@cache
def _reader(stage: type[Stage]) -> TypeAdapter[Stage]:
    return TypeAdapter(stage)


def _read(value: Any, info: ValidationInfo) -> Stage:
    return read_stage(value, (info.context or {}).get(PLUGINS))


PLUGINS = "plugins"
"""In the context of a reading: the keys of the plugins that may be imported for it."""

AnyStage = Annotated[Stage, PlainValidator(_read)]
"""A stage of whichever kind its table says."""
