"""Plugins: additions by other installed packages, as entry points of the group `fedmore.plugins`.

The name of an entry point gives the table that it adds to, and its name there::

    [project.entry-points."fedmore.plugins"]
    "codec.ternary" = "my_package.codecs:TERNARY"
    "router.by_rank" = "my_package.routers:RankRouter"

So all names are known from the metadata of the installed packages. A plugin is imported only when
its name is used. A damaged plugin is an error; it is never skipped.
"""

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from fedmore.experts.errors import ConfigError

GROUP = "fedmore.plugins"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Plugin:
    """An addition to `table` called `name`, from the distribution `package` ("name version")."""

    table: str
    name: str
    package: str
    entry: EntryPoint

    @property
    def key(self) -> str:
        """Name of its entry point, such as `codec.ternary`."""
        return f"{self.table}.{self.name}"

    def __str__(self) -> str:
        return f"{self.table} {self.name} ({self.package})"


@functools.cache
def installed() -> tuple[Plugin, ...]:
    """All plugins of all installed packages, sorted by key.

    Raises `ConfigError` if a name is invalid, or if two packages add the same name.
    """
    found: dict[str, Plugin] = {}
    for entry in entry_points(group=GROUP):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
        table, _, name = entry.name.partition(".")
        plugin = Plugin(table, name, package, entry)
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"plugin {entry.name[:80]!a} of {package}: its name is not TABLE.NAME with a NAME "
                f"of small letters, digits and '_'; uninstall {package.split(' ', maxsplit=1)[0]}"
            )
        if plugin.key in found:
            raise ConfigError(
                f"plugin {plugin}: {found[plugin.key].package} adds the same name; uninstall one"
            )
        found[plugin.key] = plugin
    return tuple(found[key] for key in sorted(found))


@dataclass(frozen=True)
class Table:
    """The names of one kind of extension: built-in ones and those of plugins.

    `what` is the first part of a plugin's name, and the word for the kind in messages. A plugin
    must not take a built-in or `reserved` name.
    """

    what: str
    builtin: tuple[str, ...]
    reserved: tuple[str, ...] = ()

    @property
    def plugins(self) -> dict[str, Plugin]:
        """Plugins of this table by name; raises `ConfigError` if one takes a name of fedmore's."""
        found = {each.name: each for each in installed() if each.table == self.what}
        for name in (*self.builtin, *self.reserved):
            if name in found:
                raise ConfigError(
                    f"plugin {found[name]}: the name is one of fedmore's own; "
                    f"uninstall {found[name].package}"
                )
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """All names, built-in ones first."""
        return (*self.builtin, *self.plugins)

    def __contains__(self, name: object) -> bool:
        return name in self.builtin or name in self.plugins

    def check(self, name: str) -> str:
        """Return `name`; raises `ValueError`, which lists the known names, if it is unknown."""
        if name not in self:
            raise ValueError(f"no {self.what} is called {name!r}; there are {self.listed()}")
        return name

    def listed(self) -> str:
        """All names as text for a message."""
        return ", ".join(self.names)

    def added(self, names: Iterable[str]) -> list[Plugin]:
        """The plugins among `names`, in order."""
        outside = sorted(set(names) - set(self.builtin))
        found = self.plugins if outside else {}
        return [found[name] for name in outside if name in found]

    def load(self, name: str, fault: Callable[[object], str]) -> object:
        """Import the plugin `name`; `fault` returns what is wrong with the object, or "".

        Raises `ConfigError` if the import fails or `fault` finds something.
        """
        plugin = self.plugins[name]
        try:
            made: object = plugin.entry.load()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(
                f"plugin {plugin}: {plugin.entry.value} cannot be loaded ({reason}); repair or "
                f"uninstall {plugin.package}"
            ) from error
        if wrong := fault(made):
            raise ConfigError(f"plugin {plugin}: {plugin.entry.value} {wrong}")
        return made
