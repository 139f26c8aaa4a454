"""The federation's certificate authority and the coordinator's certificate: EC P-256.

An invite carries the authority's certificate, so a client trusts this federation and no other.
"""

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmore.experts.errors import ConfigError

CA_DAYS = 3650
SERVER_DAYS = 825
FOLDER = "tls"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, both PEM; the key stays out of every repr."""

    certificate: bytes
    key: bytes = field(repr=False)


def make_ca(name: str) -> KeyPair:
    """A self-signed authority for the federation `name`, able to sign end certificates only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"{name} federation"[:64])
    builder = _builder(subject, subject, key.public_key(), CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_server_certificate(ca: KeyPair, hosts: Sequence[str]) -> KeyPair:
    """A certificate for `hosts` (names or IP addresses) and loopback, signed by `ca`."""
    names = list(dict.fromkeys((*hosts, *LOOPBACK)))
    signer, signer_key = _load(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(names[0][:64]), signer.subject, key.public_key(), SERVER_DAYS)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.SubjectAlternativeName([_general(host) for host in names]), False),
        (_usage(ca=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return _pair(builder.sign(signer_key, hashes.SHA256()), key)


def make_tls(directory: Path, name: str, hosts: Sequence[str]) -> tuple[KeyPair, KeyPair]:
    """Authority and server pair, written to `directory`/tls.

    The authority is kept where there is one; the server's certificate is made anew, so that a
    changed `advertise` takes effect.
    """
    folder = directory / FOLDER
    exists = (folder / "ca.key").exists()
    ca = read_pair(directory, "ca") if exists else make_ca(name)
    if not exists:
        write_pair(directory, "ca", ca)
    server = make_server_certificate(ca, hosts)
    write_pair(directory, "server", server)
    return ca, server


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


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


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
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)  # a client's clock may be behind
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
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
