"""Gives operators access to a running coordinator, from its folder or with an access file.

The file holds a certificate and its key, so it gives full control. The registry lists the one valid
certificate of each operator, including the folder's own. A new certificate for the same name, or a
revocation, makes the earlier one invalid at its next call.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from fedmore.coordinator.folder.federation import Federation, open_federation
from fedmore.coordinator.folder.invites import address_of, check_out, port_of, write_out
from fedmore.coordinator.pki.authority import certificate_of, read_authority
from fedmore.coordinator.pki.certificates import Role, Subject, make_pair, subject_of
from fedmore.coordinator.pki.tls_files import OPERATOR, Tls, fresh_tls, make_operator, read_operator
from fedmore.coordinator.store.models import now
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import OPERATORS
from fedmore.experts.errors import ConfigError, RegistryError
from fedmore.experts.names import check_name, there_are
from fedmore.protos.system.hosts import bracketed

_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound to


@dataclass(frozen=True)
class Access:
    """A coordinator's address, its authority, and the caller's certificate and key, all PEM."""

    federation: str
    operator: str
    address: str
    ca: str = field(repr=False)
    certificate: str = field(repr=False)
    key: str = field(repr=False)


@dataclass(frozen=True)
class Listed:
    """A valid operator, with the SHA-256 of its key; times are ISO 8601, if known."""

    name: str
    identity: str
    made: str = ""
    expires: str = ""


def listed(registry: Registry) -> dict[str, Listed]:
    """The valid operators, by name."""
    known: dict[str, Any] = registry.get_state(OPERATORS, {})
    return {
        name: Listed(name, entry) if isinstance(entry, str) else Listed(name, **entry)
        for name, entry in sorted(known.items())
    }


def list_own(directory: Path, registry: Registry) -> None:
    """Make the certificate in `directory`/tls the only valid one of the folder's operator."""
    subject = subject_of(read_operator(directory).certificate)
    if (known := listed(registry).get(OPERATOR)) and known.identity == subject.identity:
        return
    _let_in(registry, subject)


def tls_of(federation: Federation, hosts: Sequence[str]) -> Tls:
    """The server's certificates, renewed if due.

    The folder's operator certificate becomes valid.
    """
    tls = fresh_tls(federation.directory, federation.config.federation.name, hosts)
    list_own(federation.directory, federation.registry)
    return tls


def write_access(directory: Path, name: str, out: Path, days: int) -> None:
    """Write an access file for the operator `name`, readable by its owner alone."""
    check_name(name)
    if name == OPERATOR:
        raise ConfigError(f"{OPERATOR!r} is the folder's own certificate; choose another name")
    check_out(out)
    with open_federation(directory) as federation:
        config, registry = federation.config, federation.registry
        address, ca = address_of(config, registry), read_authority(directory)
        pair = make_pair(ca, Role.OPERATOR, name, now() + timedelta(days=days))
        _let_in(registry, subject_of(pair.certificate))
    certificates = ca.certificate.decode(), pair.certificate.decode(), pair.key.decode()
    access = Access(config.federation.name, name, address, *certificates)
    write_out(out, json.dumps(asdict(access), indent=2) + "\n")


def rotate_access(directory: Path, name: str, out: Path | None, days: int) -> None:
    """Replace the certificate of `name`; the folder's own operator needs no `out`."""
    with open_federation(directory) as federation:
        _known(federation.registry, name)
        if name == OPERATOR:
            make_operator(directory, read_authority(directory))
            list_own(directory, federation.registry)
            return
    if out is None:
        raise ConfigError("give --out FILE, where the new access file is to be written")
    write_access(directory, name, out, days)


def revoke_access(directory: Path, name: str) -> None:
    """Revoke the operator `name`."""
    if name == OPERATOR:
        raise ConfigError(
            f"{OPERATOR!r} is the folder's own; `coordinator operator rotate {directory} {name}` "
            "makes another and ends the present one"
        )
    with open_federation(directory) as federation:
        _known(federation.registry, name)
        left = dict(federation.registry.get_state(OPERATORS, {}))
        del left[name]
        federation.registry.set_state(OPERATORS, left)
        federation.registry.add_event("access", name, {"call": "revoked"})


def operators(directory: Path) -> list[Listed]:
    """List the valid operators."""
    with open_federation(directory) as federation:
        return list(listed(federation.registry).values())


def _known(registry: Registry, name: str) -> None:
    if name not in (known := listed(registry)):
        others = there_are(known, "coordinator operator list DIR")
        raise RegistryError(f"no operator {name!r}; {others}")


def _let_in(registry: Registry, subject: Subject) -> None:
    known = registry.get_state(OPERATORS, {})
    made, expires = (t.isoformat(timespec="seconds") for t in (now(), subject.expires))
    entry = {"identity": subject.identity, "made": made, "expires": expires}
    registry.set_state(OPERATORS, {**known, subject.name: entry})
    registry.add_event("access", subject.name, {"call": "let in"})


def read_access(path: Path) -> Access:
    """Read an access file; raises `ConfigError` if the file is not one."""
    try:
        return Access(**json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not an operator's access file ({error})") from error


def local_access(directory: Path) -> Access:
    """The folder's own operator's access: over loopback, or else at the server's host."""
    with open_federation(directory) as federation:
        config = federation.config
        port = port_of(config, federation.registry)
    ca, pair = certificate_of(directory), read_operator(directory)
    host = bracketed(_LOCAL.get(config.server.host, config.server.host))
    certificates = ca.decode(), pair.certificate.decode(), pair.key.decode()
    return Access(config.federation.name, OPERATOR, f"{host}:{port}", *certificates)
