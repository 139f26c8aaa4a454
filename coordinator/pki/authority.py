"""The federation's authority: the place of its key, its passphrase, and its replacement.

The key signs invites, members and operators. Its file is `tls/ca.key`, or the one that
`tls/ca.path` names, for example on a removable disk. With a passphrase it is encrypted (PKCS #8).
"""

import getpass
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from fedmore.coordinator.pki.certificates import KeyPair, belong_together, make_ca
from fedmore.experts.errors import ConfigError
from fedmore.protos.system.files import write_durably

FOLDER, STEM = "tls", "ca"
PASSPHRASE, NEW_PASSPHRASE = "FEDMORE_CA_PASSPHRASE", "FEDMORE_CA_NEW_PASSPHRASE"
"""Environment variables for passphrases; without them, the terminal asks."""
SHORTEST = 12
"""Least characters of a passphrase."""


def certificate_of(directory: Path) -> bytes:
    """The authority's certificate, which is public."""
    return _read(directory, directory / FOLDER / f"{STEM}.pem")


def is_there(directory: Path) -> bool:
    """Whether there is an authority; its key may be on an absent disk."""
    pointer = directory / FOLDER / f"{STEM}.path"
    return pointer.exists() or key_path(directory).exists()


def key_path(directory: Path) -> Path:
    """Path of the authority's key."""
    pointer = directory / FOLDER / f"{STEM}.path"
    if not pointer.exists():
        return directory / FOLDER / f"{STEM}.key"
    return Path(_read(directory, pointer).decode(errors="replace").strip())


def read_authority(directory: Path) -> KeyPair:
    """Read the certificate and the decrypted key; raises `ConfigError` if they do not match."""
    path = key_path(directory)
    key = _read(directory, path)
    if b"ENCRYPTED" in key:
        key = _decrypted(path, key)
    pair = KeyPair(certificate_of(directory), key)
    try:
        fits = belong_together(pair)
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); {_help(directory)}") from error
    if not fits:
        raise ConfigError(f"{path} is not the key of tls/{STEM}.pem; {_help(directory)}")
    return pair


def protect(directory: Path) -> Path:
    """Encrypt the key with a new passphrase; returns its path."""
    pair, path = read_authority(directory), key_path(directory)
    passphrase = _asked(NEW_PASSPHRASE, "new passphrase of the authority's key: ", path)
    if len(passphrase) < SHORTEST:
        raise ConfigError(f"a passphrase needs {SHORTEST} characters or more; {path} is unchanged")
    private = serialization.load_pem_private_key(pair.key, password=None)
    form = serialization.PrivateFormat.PKCS8
    cipher = serialization.BestAvailableEncryption(passphrase.encode())
    _write(path, private.private_bytes(serialization.Encoding.PEM, form, cipher))
    return path


def move(directory: Path, target: Path) -> None:
    """Move the key to `target`; the folder keeps only its path."""
    target, old = target.expanduser().absolute(), key_path(directory)
    if target.exists():
        raise ConfigError(f"{target} exists already; name a new file")
    read_authority(directory)  # raises for a damaged key, which must not be moved
    _write(target, _read(directory, old))
    write_durably(directory / FOLDER / f"{STEM}.path", f"{target}\n".encode())
    old.unlink()


def roll(directory: Path, name: str) -> KeyPair:
    """Make a new authority; all certificates of the previous one become invalid.

    The key replaces the old one at its path, without a passphrase.
    """
    path, made = key_path(directory), make_ca(name)
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; is its disk there?")
    _write(path, made.key)  # after a kill before this, `read_authority` reports a mismatch
    write_durably(directory / FOLDER / f"{STEM}.pem", made.certificate)
    return made


def _decrypted(path: Path, key: bytes) -> bytes:
    passphrase = _asked(PASSPHRASE, "passphrase of the authority's key: ", path)
    try:
        private = serialization.load_pem_private_key(key, password=passphrase.encode())
    except ValueError as error:
        raise ConfigError(f"{path}: the passphrase is wrong, or the key damaged") from error
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return private.private_bytes(serialization.Encoding.PEM, form, plain)


def _asked(variable: str, question: str, path: Path) -> str:
    if given := os.environ.get(variable):
        return given
    if not sys.stdin.isatty():
        raise ConfigError(f"{path}: its passphrase is asked for at a terminal, or set {variable}")
    return getpass.getpass(question)


def _read(directory: Path, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {_help(directory)}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        write_durably(path, data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _help(directory: Path) -> str:
    return (
        f"restore it from a copy, or run `coordinator init {directory}` where there is nothing yet"
    )
