"""All tables that plugins can add to, and what is installed for them."""

from fedmore.experts.errors import ConfigError
from fedmore.experts.plugins import GROUP, Plugin, Table, installed
from fedmore.experts.routers.spec import ROUTERS
from fedmore.strategies.compression.policy import NAMES
from fedmore.strategies.stages.expert import RULES
from fedmore.strategies.stages.kinds import STAGES

TABLES: tuple[Table, ...] = (NAMES, ROUTERS, RULES, STAGES)


def all_plugins() -> tuple[Plugin, ...]:
    """Every installed plugin; imports none of them.

    Raises `ConfigError` if one takes a name that is taken, or is for no table.
    """
    found, known = installed(), [table.what for table in TABLES]
    for plugin in found:
        if plugin.table not in known:
            raise ConfigError(
                f"plugin {plugin}: {GROUP} has no {plugin.table!r}; there are {', '.join(known)}"
            )
    for table in TABLES:
        _ = table.plugins
    return found
