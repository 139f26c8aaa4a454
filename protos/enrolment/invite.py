"""The invite file, which the coordinator makes and the client reads."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from fedmore.experts.errors import ConfigError, TokenError
from fedmore.experts.names import check_name
from fedmore.protos.system.files import write_private
from fedmore.protos.system.hosts import address

_TEXT = ("federation", "name", "address", "token", "expires")
_PEM = ("ca", "certificate", "key")


@dataclass(frozen=True)
class Invite:
    """Everything that a client needs to join once.

    `address` is host:port. `ca` is the federation's certificate; the client connects with
    `certificate` and `key` until it has its own. All three are PEM, or None for no encryption.
    `expires` is an ISO 8601 time with its zone. With `again`, the invite is for a member, which
    keeps its key.
    """

    federation: str
    name: str
    address: str
    ca: str | None = field(repr=False)
    certificate: str | None = field(repr=False)
    key: str | None = field(repr=False)
    token: str = field(repr=False)
    expires: str
    again: bool = False

    def check_expiry(self, now: datetime | None = None) -> None:
        """Raise `TokenError` if the token has expired."""
        if datetime.fromisoformat(self.expires) <= (now or datetime.now(UTC)):
            raise TokenError(f"the invite of {self.name!r} expired {self.expires}; ask for another")

    def write(self, path: Path) -> None:
        """Write the file, readable by its owner alone, since it is enough to join."""
        write_private(path, self.text())

    def text(self) -> str:
        """The contents of the file."""
        table = {key: value for key, value in asdict(self).items() if key != "again" or value}
        return json.dumps(table, indent=2) + "\n"


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an IP address) is a loopback address, which no other can reach."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of `host:port`."""
    return address.rpartition(":")[0]


def read_invite(path: Path) -> Invite:
    """Read an invite; raises `ConfigError` if the file is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the invite: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not an invite (not text: {error})") from error
    return parse_invite(text, str(path))


def parse_invite(text: str, path: str) -> Invite:
    """Parse an invite; raises `ConfigError` with `path` if the text is not one."""
    try:
        return _parse(json.loads(text), path)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not an invite (not JSON: {error})") from error


def _parse(table: object, path: str) -> Invite:
    if not isinstance(table, dict) or table.keys() - {"again"} != {*_TEXT, *_PEM}:
        raise ConfigError(f"{path}: not an invite; it must have {', '.join((*_TEXT, *_PEM))}")
    for key in _TEXT:
        if not isinstance(table[key], str) or not table[key]:
            raise ConfigError(f"{path}: {key}: must be text, and not empty")
    if not isinstance(table.get("again", False), bool):
        raise ConfigError(f"{path}: again: must be true or false")
    if {type(table[key]) for key in _PEM} not in ({str}, {type(None)}):
        raise ConfigError(f"{path}: {', '.join(_PEM)}: must be PEM, or all of them null")
    _check_values(table, path)
    try:
        aware = datetime.fromisoformat(table["expires"]).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise ConfigError(f"{path}: expires: must be an ISO 8601 time with its zone")
    return Invite(**table)


def _check_values(table: dict[str, str], path: str) -> None:
    """Raise `ConfigError` for invalid names, which become folders, and unprintable texts."""
    for key in ("federation", "name"):
        try:
            check_name(table[key])
        except ConfigError as error:
            raise ConfigError(f"{path}: {key}: {error}") from error
    try:
        address(table["address"])
    except ValueError as error:
        raise ConfigError(f"{path}: address: {error}") from error
