"""What may be a name of a member, an expert or a language: it becomes part of file names."""

import re

from fedmore.experts.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> None:
    """Raise `ConfigError` unless `name` can be one."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} cannot be a name: 1 to 64 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )
