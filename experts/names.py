"""Checks names of federations, members, experts, domains and languages.

Names become parts of file names, log lines and terminal output.
"""

import re
from collections.abc import Iterable

from fedmore.experts.errors import ConfigError

PUBLIC = "public"
"""Name of the base's own arm in every table of routing weights."""

LONGEST = 64
FEW = 12
"""Number of names up to which an error lists them; above, it gives the number."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> None:
    """Raise `ConfigError` unless `name` is valid."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!a} cannot be a name: 1 to 64 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )


def check_targets(names: Iterable[str]) -> None:
    """Raise `ConfigError` unless all domains and languages have distinct names.

    Case is ignored, since names become files and some file systems ignore case. `public` is
    reserved for the base.
    """
    seen: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if folded == PUBLIC:
            raise ConfigError(f"{name!a} is the base's own name in a mixture; choose another")
        if folded in seen:
            raise ConfigError(
                f"{name!a} is there already, as {seen[folded]!a}; a domain or language needs a "
                "name of its own"
            )
        seen[folded] = name


def tamed(text: str) -> str:
    """Make a name from `text`, with hyphens for invalid characters; empty if nothing is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:LONGEST]


def there_are(known: Iterable[str], command: str) -> str:
    """For an error about an unknown name: the known names or, if many, the command that lists them.

    For example "there are: gl, legal", or "there are 40, listed by `coordinator experts DIR`".
    """
    names = sorted(set(known))
    if len(names) > FEW:
        return f"there are {len(names)}, listed by `{command}`"
    return f"there are: {', '.join(names)}" if names else "there is none yet"
