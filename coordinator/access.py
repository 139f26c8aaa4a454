"""An operator's way to a running coordinator: from its folder, or by an access file.

The file holds a certificate and its key, so it is as good as the operator. Making another for the
same name, or removing the name, ends the earlier one.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

from fedmore.coordinator.certificates import Role, make_pair, subject_of
from fedmore.coordinator.federation import open_federation
from fedmore.coordinator.invites import address_of, bracketed, check_out, port_of, write_out
from fedmore.coordinator.security import AUTHORITY, OPERATOR, read_pair
from fedmore.coordinator.tables import now
from fedmore.experts.errors import ConfigError, RegistryError
from fedmore.experts.names import check_name

OPERATORS = "operators"
"""State key: the identity of each access file, by the operator's name."""
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound to


@dataclass(frozen=True)
class Access:
    """Where a coordinator listens, whom to trust, and who calls; all of the keys are PEM."""

    federation: str
    operator: str
    address: str
    ca: str = field(repr=False)
    certificate: str = field(repr=False)
    key: str = field(repr=False)


def write_access(directory: Path, name: str, out: Path, days: int) -> None:
    """Make an access file for the operator `name`, readable by its owner alone."""
    check_name(name)
    if name == OPERATOR:
        raise ConfigError(f"{OPERATOR!r} is the folder's own certificate; choose another name")
    check_out(out)
    with open_federation(directory) as federation:
        config, registry = federation.config, federation.registry
        address, ca = address_of(config, registry), read_pair(directory, AUTHORITY)
        pair = make_pair(ca, Role.OPERATOR, name, now() + timedelta(days=days))
        known = registry.get_state(OPERATORS, {})
        identity = subject_of(pair.certificate).identity
        registry.set_state(OPERATORS, {**known, name: identity})
    certificates = ca.certificate.decode(), pair.certificate.decode(), pair.key.decode()
    access = Access(config.federation.name, name, address, *certificates)
    write_out(out, json.dumps(asdict(access), indent=2) + "\n")


def remove_access(directory: Path, name: str) -> None:
    """Let the operator `name` in no more."""
    with open_federation(directory) as federation:
        known = dict(federation.registry.get_state(OPERATORS, {}))
        if name not in known:
            raise RegistryError(f"no operator {name!r}; there are: {', '.join(known) or 'none'}")
        del known[name]
        federation.registry.set_state(OPERATORS, known)


def read_access(path: Path) -> Access:
    """Read an access file; raises `ConfigError` for what is none."""
    try:
        return Access(**json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not an operator's access file ({error})") from error


def local_access(directory: Path) -> Access:
    """How the folder's own operator calls: over loopback, or the one address it listens on."""
    with open_federation(directory) as federation:
        config = federation.config
        port = port_of(config, federation.registry)
    ca, pair = read_pair(directory, AUTHORITY), read_pair(directory, OPERATOR)
    host = bracketed(_LOCAL.get(config.server.host, config.server.host))
    certificates = ca.certificate.decode(), pair.certificate.decode(), pair.key.decode()
    return Access(config.federation.name, OPERATOR, f"{host}:{port}", *certificates)
