"""The folder `tls`: the federation's authority, the server's certificate, the operator's.

An invite carries the authority's certificate, so a client trusts this federation and no other.
"""

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmore.coordinator.certificates import (
    SERVER_DAYS,
    KeyPair,
    Role,
    is_due,
    make_ca,
    make_pair,
    make_server_certificate,
)
from fedmore.experts.errors import ConfigError

FOLDER = "tls"
AUTHORITY, SERVER, OPERATOR = "ca", "server", "operator"


@dataclass(frozen=True)
class Tls:
    """What the server needs: the authority, which signs the clients' keys, and its own pair."""

    ca: KeyPair
    server: KeyPair


def make_tls(directory: Path, name: str, hosts: Sequence[str]) -> Tls:
    """Authority, server's and operator's pair, written to `directory`/tls.

    The authority is kept where there is one, so its members stay; the others are made anew: a
    changed `advertise` takes effect, and the time until they expire begins again.
    """
    exists = (directory / FOLDER / f"{AUTHORITY}.key").exists()
    ca = read_pair(directory, AUTHORITY) if exists else make_ca(name)
    if not exists:
        write_pair(directory, AUTHORITY, ca)
    server = make_server_certificate(ca, hosts)
    write_pair(directory, SERVER, server)
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=SERVER_DAYS)
    write_pair(directory, OPERATOR, make_pair(ca, Role.OPERATOR, OPERATOR, expires))
    return Tls(ca, server)


def read_tls(directory: Path) -> Tls:
    """What `make_tls` wrote; raises `ConfigError` where it is missing."""
    return Tls(read_pair(directory, AUTHORITY), read_pair(directory, SERVER))


def fresh_tls(directory: Path, name: str, hosts: Sequence[str]) -> Tls:
    """The same; what has less than a third of its time left is made anew first."""
    found = read_tls(directory)
    try:
        due = is_due(found.server.certificate)
    except ValueError as error:
        raise ConfigError(
            f"{directory / FOLDER / SERVER}.pem is damaged ({error}); run "
            f"`coordinator renew {directory}`"
        ) from error
    return make_tls(directory, name, hosts) if due else found


def write_pair(directory: Path, stem: str, pair: KeyPair) -> None:
    """Write `directory`/tls/`stem`.pem and, readable by its owner alone, `stem`.key."""
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.pem").write_bytes(pair.certificate)
    key = folder / f"{stem}.key"
    key.unlink(missing_ok=True)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pair.key)


def read_pair(directory: Path, stem: str) -> KeyPair:
    """What `write_pair` wrote; raises `ConfigError` where it is missing."""
    folder = directory / FOLDER
    try:
        return KeyPair((folder / f"{stem}.pem").read_bytes(), (folder / f"{stem}.key").read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}; run `coordinator init {directory}` first"
        ) from error
