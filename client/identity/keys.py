"""The client's key: made here, kept here, never sent.

The coordinator gets a signing request, which holds the public half and proves that the private half
is here.
"""

import datetime as dt
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedmore.experts.errors import ConfigError
from fedmore.protos.system.files import write_private

KEY = "key.pem"
SECRET = "secret"  # noqa: S105 - the name of a file


def own_key(state: Path) -> str:
    """The private key (PEM, EC P-256) in `state`, made if it is missing."""
    return _kept(state / KEY, _new_key)


def own_secret(state: Path) -> str:
    """The secret that stands for a key without TLS."""
    return _kept(state / SECRET, lambda: secrets.token_urlsafe(32))


def signing_request(key: str, name: str) -> str:
    """A PKCS #10 request (PEM) for `key`, signed with it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder(subject).sign(_load(key), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


def secret_digest(secret: str) -> str:
    """The SHA-256 by which the coordinator knows a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def expiry(certificate: str) -> tuple[dt.datetime, dt.datetime]:
    """From when until when a certificate (PEM) is good."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError as error:
        raise ConfigError(f"the client's certificate is damaged ({error}); restore it") from error
    return loaded.not_valid_before_utc, loaded.not_valid_after_utc


def _kept(path: Path, make: Callable[[], str]) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        made = make()
        write_private(path, made)  # before it is used: the coordinator will know this one
        return made
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); restore it from a copy") from error


def _new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode("ascii")


def _load(key: str) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key.encode(), password=None)
    except ValueError as error:
        raise ConfigError(f"{KEY} is damaged ({error}); restore it from a copy") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{KEY} is not an EC key; restore it from a copy")
    return loaded
