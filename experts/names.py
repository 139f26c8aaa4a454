"""What may be a name of a federation, a member, an expert, a domain or a language.

Names become parts of file names, of log lines and of what a terminal shows.
"""

import re
from collections.abc import Iterable

from fedmore.experts.errors import ConfigError

PUBLIC = "public"
"""The base's own arm, in every table of routing weights."""

LONGEST = 64
FEW = 12
"""Names that an error lists; of more it says the number."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> None:
    """Raise `ConfigError` unless `name` can be one."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!a} cannot be a name: 1 to 64 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )


def check_targets(names: Iterable[str]) -> None:
    """Raise `ConfigError` unless every domain and language has a name of its own.

    Case makes no difference: the names become files, and some file systems know none. `public` is
    the base's.
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
    """`text` as a name, with a hyphen for what cannot be in one; empty if nothing is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:LONGEST]


def there_are(known: Iterable[str], command: str) -> str:
    """For an error about an unknown name: the known ones or, of many, the command that lists them.

    For example "there are: gl, legal" and "there are 40, listed by `coordinator experts DIR`".
    """
    names = sorted(set(known))
    if len(names) > FEW:
        return f"there are {len(names)}, listed by `{command}`"
    return f"there are: {', '.join(names)}" if names else "there is none yet"
