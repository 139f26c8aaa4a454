"""Who signs whom, and what of a signing request is believed."""

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmore.coordinator.pki.certificates import (
    CLIENT_DAYS,
    LONGEST_REQUEST,
    KeyPair,
    Role,
    is_due,
    make_ca,
    make_pair,
    make_server_certificate,
    requested_key,
    sign_client,
    subject_of,
)
from fedmore.experts.errors import ConfigError, WireError

PEM = serialization.Encoding.PEM
NOW = dt.datetime.now(dt.UTC)
CA = make_ca("fed")


def load(pem):
    return x509.load_pem_x509_certificate(pem.certificate if isinstance(pem, KeyPair) else pem)


def extension(pem, kind):
    return load(pem).extensions.get_extension_for_class(kind).value


def csr(key, *, subject=(), extensions=(), algorithm=hashes.SHA256()):  # noqa: B008
    names = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    builder = x509.CertificateSigningRequestBuilder(names)
    for each in extensions:
        builder = builder.add_extension(each, critical=False)
    return builder.sign(key, algorithm).public_bytes(PEM).decode()


def p256():
    return ec.generate_private_key(ec.SECP256R1())


def test_the_server_certificate_is_signed_and_names_its_hosts():
    pair = make_server_certificate(CA, ["example.org", "192.0.2.7", "2001:db8::1"])
    load(pair).verify_directly_issued_by(load(CA))
    names = extension(pair, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["example.org", "localhost"]
    addresses = names.get_values_for_type(x509.IPAddress)
    expected = ("192.0.2.7", "2001:db8::1", "127.0.0.1", "::1")
    assert addresses == [ipaddress.ip_address(a) for a in expected]


def test_an_authority_cannot_make_authorities():
    constraints = extension(CA, x509.BasicConstraints)
    assert constraints.ca
    assert constraints.path_length == 0


def test_nobody_but_the_server_can_be_the_server():
    server = make_server_certificate(CA, ["localhost"])
    assert list(extension(server, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.SERVER_AUTH]
    for pair in (make_pair(CA, Role.INVITE, "ada", NOW), make_pair(CA, Role.OPERATOR, "ops", NOW)):
        assert list(extension(pair, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        assert not extension(pair, x509.BasicConstraints).ca
        assert not extension(pair, x509.KeyUsage).key_cert_sign


def test_a_certificate_says_whose_it_is_what_for_and_until_when():
    until = NOW.replace(microsecond=0) + dt.timedelta(days=3)
    subject = subject_of(make_pair(CA, Role.OPERATOR, "ops", until).certificate)
    assert (subject.role, subject.name, subject.expires) == (Role.OPERATOR, "ops", until)
    with pytest.raises(WireError, match="whose it is"):
        subject_of(CA.certificate)


def test_a_request_becomes_a_members_certificate_for_its_key():
    key = p256()
    certificate, subject = sign_client(CA, csr(key), "ada")
    made = load(certificate.encode())
    made.verify_directly_issued_by(load(CA))
    assert made.public_key() == key.public_key()
    assert (subject.role, subject.name) == (Role.CLIENT, "ada")
    left = made.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=CLIENT_DAYS - 1) < left <= dt.timedelta(days=CLIENT_DAYS)
    assert sign_client(CA, csr(key), "ada")[1].identity == subject.identity
    assert sign_client(CA, csr(p256()), "ada")[1].identity != subject.identity


def test_of_a_request_nothing_but_the_key_is_believed():
    """A request that asks to be an operator, an authority and the server is a client's."""
    request = csr(
        p256(),
        subject=(
            (NameOID.COMMON_NAME, "root"),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, "operator"),
            (NameOID.ORGANIZATION_NAME, "evil"),
        ),
        extensions=(
            x509.BasicConstraints(ca=True, path_length=None),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
            x509.SubjectAlternativeName([x509.DNSName("localhost")]),
        ),
    )
    certificate, subject = sign_client(CA, request, "ada")
    made = load(certificate.encode())
    assert (subject.role, subject.name) == (Role.CLIENT, "ada")
    assert [a.value for a in made.subject] == ["client", "ada"]
    assert not extension(certificate.encode(), x509.BasicConstraints).ca
    usage = extension(certificate.encode(), x509.ExtendedKeyUsage)
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        extension(certificate.encode(), x509.SubjectAlternativeName)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
        (ec.generate_private_key(ec.SECP256K1()), hashes.SHA256()),
        (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
        (ed25519.Ed25519PrivateKey.generate(), None),
    ],
    ids=["P-384", "secp256k1", "RSA", "Ed25519"],
)
def test_another_kind_of_key_is_refused(key, algorithm):
    with pytest.raises(WireError, match="another kind of key"):
        requested_key(csr(key, algorithm=algorithm))


def test_a_request_for_somebody_elses_key_is_refused():
    """The public key of one, signed by another: replaced in the DER, where it stands once."""
    mine, theirs = p256(), p256()
    der = x509.load_pem_x509_csr(csr(mine).encode()).public_bytes(serialization.Encoding.DER)
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    old, new = (
        k.public_key().public_bytes(serialization.Encoding.DER, info) for k in (mine, theirs)
    )
    assert der.count(old) == 1
    forged = x509.load_der_x509_csr(der.replace(old, new)).public_bytes(PEM).decode()
    with pytest.raises(WireError, match="not signed with the key"):
        requested_key(forged)


@pytest.mark.parametrize("text", ["", "no", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA", "ä" * 9])
def test_what_is_no_request_is_refused(text):
    with pytest.raises(WireError, match="not a certificate signing request"):
        requested_key(text)
    with pytest.raises(WireError, match="at most"):
        requested_key("A" * (LONGEST_REQUEST + 1))


def test_a_certificate_is_due_when_a_third_of_its_time_is_left():
    pair = make_pair(CA, Role.CLIENT, "ada", NOW + dt.timedelta(days=90))
    assert not is_due(pair.certificate, NOW + dt.timedelta(days=59))
    assert is_due(pair.certificate, NOW + dt.timedelta(days=61))
    assert is_due(pair.certificate, NOW + dt.timedelta(days=100))


def test_keys_stay_out_of_logs():
    assert "PRIVATE" not in repr(CA)


def test_what_is_damaged_is_a_clear_error():
    with pytest.raises(ConfigError, match="damaged"):
        make_server_certificate(KeyPair(b"no", b"no"), ["localhost"])
    with pytest.raises(ConfigError, match="no host name"):
        make_server_certificate(CA, ["a" * 64 + ".example"])
