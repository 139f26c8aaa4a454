"""Which plugins a task would have this client import, found without importing any.

A task is of a kind of stage, and names a codec in its settings and with each of its arrays, and a
kind of router. What is not
installed is refused where it is read; what is installed needs the owner's word
(`OwnerPolicy.plugins`), since a coordinator does not choose which code runs on an owner's machine.
"""

from collections.abc import Iterable, Iterator

from flwr.app import ConfigRecord, Message

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import EgressError, WireError
from fedmore.experts.plugins import Plugin
from fedmore.experts.routers.spec import ROUTERS
from fedmore.strategies.compression.policy import plugins_of
from fedmore.strategies.router_stage.tasks import ROUTE
from fedmore.strategies.stages.kinds import STAGES
from fedmore.strategies.tasks.base import TASK
from fedmore.strategies.tasks.train import STYPE


def check_plugins(plugins: Iterable[Plugin], rules: OwnerPolicy) -> None:
    """Raise `EgressError` unless the owner has allowed every one; before any is imported."""
    if found := rules.strangers(plugins):
        raise EgressError(f"the coordinator asks for what is not fedmore's: {'; '.join(found)}")


def plugins_in(task: Message) -> list[Plugin]:
    """The installed plugins that `task` names, each once."""
    message_type = task.metadata.message_type
    found = STAGES.added([message_type.partition(".")[2]])
    if not task.has_content():
        return found
    settings = task.content.config_records.get(TASK, ConfigRecord())
    found += STAGES.added([stage_named(task)])
    found += [plugin for text in _codecs(task, settings) for plugin in _of_codec(text)]
    if message_type == ROUTE:
        found += ROUTERS.added([str(settings.get("kind"))])
    return list(dict.fromkeys(found))


def stage_named(task: Message) -> str:
    """The kind of stage that a task says it is of; nothing of the task is read but that."""
    return str(task.content.config_records.get(TASK, ConfigRecord()).get("stage"))


def _codecs(task: Message, settings: ConfigRecord) -> Iterator[str]:
    yield str(settings.get("codec"))
    for record in task.content.array_records.values():
        for array in record.values():
            yield array.stype.removeprefix(STYPE)


def _of_codec(text: str) -> list[Plugin]:
    """Nothing for what is no codec: its reader refuses it."""
    try:
        return plugins_of(text)
    except WireError:
        return []
