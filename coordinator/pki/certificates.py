"""Makes certificates: one authority per federation, with EC P-256 keys throughout.

The organisational unit of a certificate's subject is its owner's role, and the common name is its
owner's name. The coordinator always sets the subject: of a signing request only the public key is
used.
"""

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmore.experts.errors import ConfigError, WireError

CA_DAYS = 3650
SERVER_DAYS = 825
CLIENT_DAYS = 90
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SKEW = dt.timedelta(hours=1)
"""How far a machine's clock may be behind the coordinator's."""
LONGEST_REQUEST = 8192
"""Most bytes of a signing request in PEM; one for a P-256 key has about 400."""


class Role(StrEnum):
    """The role of a certificate's owner."""

    SERVER = "server"
    INVITE = "invite"
    CLIENT = "client"
    OPERATOR = "operator"


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, both PEM; the key is not in the repr."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Subject:
    """A certificate's owner; `identity` is the SHA-256 of its public key, in hex."""

    role: Role
    name: str
    identity: str
    expires: dt.datetime


def make_ca(name: str) -> KeyPair:
    """Make a self-signed authority for the federation `name`, which signs end certificates only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} federation"[:64])])
    builder = _builder(subject, subject, key.public_key(), _in(days=CA_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_server_certificate(ca: KeyPair, hosts: Sequence[str]) -> KeyPair:
    """Make a certificate for `hosts` (names or IP addresses) and loopback, signed by `ca`."""
    names = list(dict.fromkeys((*hosts, *LOOPBACK)))
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = x509.SubjectAlternativeName([_general(host) for host in names])
    expires = _in(days=SERVER_DAYS)
    return _pair(_sign(ca, key.public_key(), Role.SERVER, names[0], expires, alternatives), key)


def make_pair(ca: KeyPair, role: Role, name: str, expires: dt.datetime) -> KeyPair:
    """Make a key and its certificate, for an invite or an operator."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _pair(_sign(ca, key.public_key(), role, name, expires), key)


def sign_client(ca: KeyPair, request: str, name: str) -> tuple[str, Subject]:
    """Sign a member's certificate for its `request`; returns it as PEM, and its subject.

    Raises `WireError` unless the request is a PKCS #10 for a P-256 key, signed with that key.
    """
    key = requested_key(request)
    certificate = _sign(ca, key, Role.CLIENT, name, _in(days=CLIENT_DAYS))
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
    return pem, subject_of(certificate)


def requested_key(request: str) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request, which must be signed with its private key."""
    if len(request) > LONGEST_REQUEST:
        raise WireError(f"a signing request has at most {LONGEST_REQUEST} bytes")
    try:
        parsed = x509.load_pem_x509_csr(request.encode())
        key = parsed.public_key()
        valid = parsed.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise WireError(f"not a certificate signing request in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise WireError("the signing request is for another kind of key than EC P-256")
    if not valid:
        raise WireError("the signing request is not signed with the key that it is for")
    return key


@lru_cache(maxsize=1024)
def subject_of(certificate: x509.Certificate | bytes) -> Subject:
    """The subject of one of our certificates; raises `WireError` for any other."""
    if isinstance(certificate, bytes):
        certificate = x509.load_pem_x509_certificate(certificate)
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(units) != 1 or len(names) != 1 or units[0].value not in set(Role):
        raise WireError("the certificate does not say whose it is and what for")
    return Subject(
        Role(str(units[0].value)),
        str(names[0].value),
        identity_of(certificate.public_key()),
        certificate.not_valid_after_utc,
    )


def identity_of(key: object) -> str:
    """The SHA-256 of a public key, in hex."""
    assert isinstance(key, ec.EllipticCurvePublicKey), "every certificate of ours has an EC key"
    der = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(*der)).hexdigest()


def is_due(certificate: bytes, now: dt.datetime | None = None) -> bool:
    """Whether less than a third of a certificate's lifetime is left."""
    loaded = x509.load_pem_x509_certificate(certificate)
    start, end = loaded.not_valid_before_utc, loaded.not_valid_after_utc
    return end - (now or dt.datetime.now(dt.UTC)) < (end - start) / 3


def belong_together(pair: KeyPair) -> bool:
    """Whether the key is the certificate's; raises `ValueError` if either cannot be read."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    key = serialization.load_pem_private_key(pair.key, password=None)
    return key.public_key() == certificate.public_key()


def _sign(
    ca: KeyPair,
    key: ec.EllipticCurvePublicKey,
    role: Role,
    name: str,
    expires: dt.datetime,
    *extra: x509.ExtensionType,
) -> x509.Certificate:
    signer, signer_key = _load(ca)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name[:64]),
        ]
    )
    server = role is Role.SERVER
    use = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _builder(subject, signer.subject, key, expires)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(ca=False), True),
        (x509.ExtendedKeyUsage([use]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), False),
        *((extension, False) for extension in extra),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer_key, hashes.SHA256())


def _in(*, days: int) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=days)


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode("ascii"))
    except UnicodeError as error:
        raise ConfigError(f"server.advertise: {host!r} is no host name or IP address") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, expires: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(dt.datetime.now(dt.UTC), expires) - SKEW)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyPair(certificate.public_bytes(pem), private)


def _load(ca: KeyPair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(ca.certificate)
        key = serialization.load_pem_private_key(ca.key, password=None)
    except ValueError as error:
        raise ConfigError(f"tls: the authority's certificate or key is damaged: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("tls/ca.key: not an EC key; remove the tls folder and init again")
    return certificate, key
