"""The federation's signing key: Ed25519, in `tls/lineage.key`; the public half is `lineage.pub`.

The authority's key signs certificates only, and may be encrypted or on another disk. Records of
versions are signed in every round, with nobody there to ask, so they have a key of their own.
"""

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmore.coordinator.pki.authority import FOLDER
from fedmore.experts.errors import ConfigError
from fedmore.protos.system.files import write_durably

STEM = "lineage"


def signing_key(directory: Path) -> Ed25519PrivateKey:
    """The key of the federation in `directory`; one is made if there never was any.

    Raises `ConfigError` if it is damaged, or missing although its public half is there.
    """
    secret, public = key_path(directory), public_path(directory)
    if not secret.exists():
        if public.exists():
            raise ConfigError(
                f"{secret} is missing, and {public.name} is there; restore the key from a copy"
            )
        _write(secret, _private_pem(Ed25519PrivateKey.generate()))
    key = _read_private(secret)
    if not public.exists():  # also after a kill in between
        _write(public, public_pem(key.public_key()))
    return key


def verifying_key(directory: Path, file: Path | None = None) -> Ed25519PublicKey:
    """The public key in `file`, by default the federation's own; raises `ConfigError`."""
    path = file or public_path(directory)
    if not path.exists() and file is None and key_path(directory).exists():
        return _read_private(key_path(directory)).public_key()
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: no public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: not an Ed25519 key; name a copy of the federation's {STEM}.pub")
    return key


def has_key(directory: Path) -> bool:
    """Whether the federation has ever signed anything."""
    return key_path(directory).exists() or public_path(directory).exists()


def key_path(directory: Path) -> Path:
    """Path of the private key."""
    return directory / FOLDER / f"{STEM}.key"


def public_path(directory: Path) -> Path:
    """Path of the public key, which may be given to anybody."""
    return directory / FOLDER / f"{STEM}.pub"


def fingerprint_of(key: Ed25519PublicKey) -> str:
    """The SHA-256 of a public key, in hex."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def is_signed(key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is the key's, of this data."""
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def public_pem(key: Ed25519PublicKey) -> bytes:
    """A public key as PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form)


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain)


def _read_private(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is damaged ({error}); restore it from a copy") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key; restore it from a copy")
    return key


def _write(path: Path, data: bytes) -> None:
    try:
        write_durably(path, data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
