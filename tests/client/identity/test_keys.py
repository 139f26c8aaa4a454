"""The client's key: made once, private, and shown to nobody."""

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedmore.client.identity.keys import (
    KEY,
    SECRET,
    expiry,
    own_key,
    own_secret,
    secret_digest,
    signing_request,
)
from fedmore.experts.errors import ConfigError


@pytest.mark.parametrize(("make", "name"), [(own_key, KEY), (own_secret, SECRET)])
def test_it_is_made_once_and_private(tmp_path: Path, make, name: str) -> None:
    state = tmp_path / "state"
    first = make(state)
    assert make(state) == first
    assert (state / name).read_text() == first
    assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    assert [p.name for p in state.iterdir()] == [name]
    assert make(tmp_path / "other") != first


def test_a_request_proves_the_key_and_holds_no_secret(tmp_path: Path) -> None:
    key = own_key(tmp_path)
    text = signing_request(key, "ada")
    request = x509.load_pem_x509_csr(text.encode())
    public = request.public_key()
    assert request.is_signature_valid
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP256R1)
    assert "PRIVATE" not in text
    assert len(text) < 600


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_is_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / KEY).write_text(text)
    with pytest.raises(ConfigError, match=r"key\.pem is damaged.*restore"):
        signing_request(own_key(tmp_path), "ada")
    assert (tmp_path / KEY).read_text() == text


def test_a_key_of_another_kind_or_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(ConfigError, match="not an EC key"):
        signing_request(other.decode(), "ada")
    (tmp_path / KEY).mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        own_key(tmp_path)


def test_a_damaged_certificate_is_an_error() -> None:
    with pytest.raises(ConfigError, match="certificate is damaged"):
        expiry("no certificate")


def test_a_secret_is_known_by_its_digest() -> None:
    assert secret_digest("abc").startswith("ba7816bf8f01cfea")
