"""The folder `tls` with the authority and the certificates of the server and the operator.

An invite carries the authority's certificate, so a client trusts only this federation.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmore.coordinator.pki.authority import FOLDER, is_there, read_authority
from fedmore.coordinator.pki.certificates import (
    SERVER_DAYS,
    KeyPair,
    Role,
    belong_together,
    is_due,
    make_ca,
    make_pair,
    make_server_certificate,
)
from fedmore.experts.errors import ConfigError
from fedmore.protos.system.files import private_folder, write_durably

__all__ = ["FOLDER", "read_authority"]

AUTHORITY, SERVER, OPERATOR = "ca", "server", "operator"


@dataclass(frozen=True)
class Tls:
    """The server's certificates: the authority, which signs clients' keys, and its own pair."""

    ca: KeyPair
    server: KeyPair


def make_tls(directory: Path, name: str, hosts: Sequence[str]) -> Tls:
    """Write the authority, the server's and the operator's pair to `directory`/tls.

    An existing authority is kept, so members stay valid. The other pairs are made anew: a changed
    `advertise` takes effect, and their lifetime begins again.
    """
    exists = is_there(directory)
    ca = read_authority(directory) if exists else make_ca(name)
    if not exists:
        write_pair(directory, AUTHORITY, ca)
    server = make_server_certificate(ca, hosts)
    write_pair(directory, SERVER, server)
    make_operator(directory, ca)
    return Tls(ca, server)


def make_operator(directory: Path, ca: KeyPair) -> None:
    """Write the folder's own operator certificate; `list_own` makes it valid."""
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=SERVER_DAYS)
    write_pair(directory, OPERATOR, make_pair(ca, Role.OPERATOR, OPERATOR, expires))


def read_tls(directory: Path) -> Tls:
    """Read the files of `make_tls`; raises `ConfigError` if any is missing or does not match."""
    return Tls(read_authority(directory), _whole(directory, SERVER))


def fresh_tls(directory: Path, name: str, hosts: Sequence[str]) -> Tls:
    """Read the files.

    Certificates with less than a third of their lifetime left are renewed first.
    """
    found = read_tls(directory)
    return make_tls(directory, name, hosts) if is_due(found.server.certificate) else found


def write_pair(directory: Path, stem: str, pair: KeyPair) -> None:
    """Write `directory`/tls/`stem`.pem and `stem`.key, each atomically.

    A kill in between leaves a pair that does not match, which `read_tls` notices. Of a new
    authority it leaves the certificate alone, and the authority is made anew.
    """
    folder = directory / FOLDER
    private_folder(folder)
    write_durably(folder / f"{stem}.pem", pair.certificate)
    write_durably(folder / f"{stem}.key", pair.key)


def read_pair(directory: Path, stem: str) -> KeyPair:
    """Read the files of `write_pair`; raises `ConfigError` if one is missing."""
    folder = directory / FOLDER
    try:
        return KeyPair((folder / f"{stem}.pem").read_bytes(), (folder / f"{stem}.key").read_bytes())
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; {_help(directory)}") from error


def read_operator(directory: Path) -> KeyPair:
    """Read the folder's own operator certificate; raises `ConfigError` if it is damaged."""
    return _whole(directory, OPERATOR)


def _whole(directory: Path, stem: str) -> KeyPair:
    pair, place = read_pair(directory, stem), directory / FOLDER / stem
    try:
        fits = belong_together(pair)
    except ValueError as error:
        raise ConfigError(f"{place}.pem is damaged ({error}); {_help(directory)}") from error
    if not fits:
        raise ConfigError(f"{place}.key is not the key of {place}.pem; {_help(directory)}")
    return pair


def _help(directory: Path) -> str:
    return f"run `coordinator renew {directory}`"
