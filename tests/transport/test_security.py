import ipaddress

import pytest
from cryptography import x509

from fedmore.coordinator.security import (
    KeyPair,
    make_ca,
    make_server_certificate,
    make_tls,
    read_pair,
)
from fedmore.experts.errors import ConfigError


def load(pair):
    return x509.load_pem_x509_certificate(pair.certificate)


def names(pair):
    return load(pair).extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_the_server_certificate_is_signed_and_names_its_hosts():
    ca = make_ca("fed")
    pair = make_server_certificate(ca, ["example.org", "192.0.2.7", "2001:db8::1"])
    load(pair).verify_directly_issued_by(load(ca))
    assert names(pair).get_values_for_type(x509.DNSName) == ["example.org", "localhost"]
    addresses = names(pair).get_values_for_type(x509.IPAddress)
    assert ipaddress.ip_address("192.0.2.7") in addresses
    assert ipaddress.ip_address("2001:db8::1") in addresses
    assert ipaddress.ip_address("127.0.0.1") in addresses


def test_an_authority_cannot_make_authorities():
    constraints = load(make_ca("fed")).extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.ca
    assert constraints.value.path_length == 0


def test_keys_are_private_and_the_authority_is_kept(tmp_path):
    ca, server = make_tls(tmp_path, "fed", ["localhost"])
    for stem in ("ca", "server"):
        assert (tmp_path / "tls" / f"{stem}.key").stat().st_mode & 0o777 == 0o600
    again, other = make_tls(tmp_path, "fed", ["example.org"])
    assert again == ca == read_pair(tmp_path, "ca")
    assert other != server
    assert other == read_pair(tmp_path, "server")
    load(other).verify_directly_issued_by(load(ca))


def test_keys_stay_out_of_logs():
    assert "PRIVATE" not in repr(make_ca("fed"))


def test_what_is_missing_or_damaged_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="coordinator init"):
        read_pair(tmp_path, "server")
    with pytest.raises(ConfigError, match="damaged"):
        make_server_certificate(KeyPair(b"no", b"no"), ["localhost"])
    with pytest.raises(ConfigError, match="no host name"):
        make_server_certificate(make_ca("fed"), ["a" * 64 + ".example"])
