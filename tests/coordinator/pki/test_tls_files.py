"""The folder `tls`: what is private, what is kept, what is made anew."""

import datetime as dt
import stat

import pytest
from cryptography import x509

from fedmore.coordinator.pki import tls_files
from fedmore.coordinator.pki.certificates import KeyPair, Role, make_ca, subject_of
from fedmore.coordinator.pki.tls_files import fresh_tls, make_tls, read_pair, read_tls, write_pair
from fedmore.experts.errors import ConfigError

STEMS = ("ca", "server", "operator")


def load(pair):
    return x509.load_pem_x509_certificate(pair.certificate)


def test_keys_are_private_and_the_authority_is_kept(tmp_path):
    first = make_tls(tmp_path, "fed", ["localhost"])
    assert sorted(p.name for p in (tmp_path / "tls").iterdir()) == sorted(
        f"{stem}.{kind}" for stem in STEMS for kind in ("key", "pem")
    )
    for stem in STEMS:
        assert stat.S_IMODE((tmp_path / "tls" / f"{stem}.key").stat().st_mode) == 0o600
    again = make_tls(tmp_path, "fed", ["example.org"])
    assert again.ca == first.ca
    assert again.server != first.server
    assert again == read_tls(tmp_path)
    for pair in (again.server, read_pair(tmp_path, "operator")):
        load(pair).verify_directly_issued_by(load(again.ca))
    assert subject_of(read_pair(tmp_path, "operator").certificate).role is Role.OPERATOR


def test_what_will_expire_is_made_anew_in_time(tmp_path, monkeypatch):
    made = make_tls(tmp_path, "fed", ["localhost"])
    assert fresh_tls(tmp_path, "fed", ["localhost"]) == made
    operator = read_pair(tmp_path, "operator")
    monkeypatch.setattr(
        tls_files, "is_due", lambda certificate: certificate == made.server.certificate
    )
    fresh = fresh_tls(tmp_path, "fed", ["localhost"])
    assert fresh.ca == made.ca
    assert fresh.server != made.server
    assert read_pair(tmp_path, "operator") != operator
    assert fresh_tls(tmp_path, "fed", ["localhost"]) == fresh == read_tls(tmp_path)


def test_an_operator_certificate_lasts_as_long_as_the_servers(tmp_path):
    made = make_tls(tmp_path, "fed", ["localhost"])
    gap = (
        load(read_pair(tmp_path, "operator")).not_valid_after_utc
        - load(made.server).not_valid_after_utc
    )
    assert abs(gap) < dt.timedelta(minutes=1)


def test_what_is_missing_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="coordinator init"):
        read_tls(tmp_path)
    write_pair(tmp_path, "ca", make_ca("fed"))
    with pytest.raises(ConfigError, match=r"server\.pem.*coordinator renew"):
        read_tls(tmp_path)


def test_a_damaged_certificate_can_be_renewed(tmp_path):
    make_tls(tmp_path, "fed", ["localhost"])
    (tmp_path / "tls" / "server.pem").write_text("no")
    with pytest.raises(ConfigError, match=r"server\.pem is damaged.*coordinator renew"):
        fresh_tls(tmp_path, "fed", ["localhost"])
    made = make_tls(tmp_path, "fed", ["localhost"])
    assert fresh_tls(tmp_path, "fed", ["localhost"]) == made


def test_a_key_of_another_certificate_can_be_renewed(tmp_path):
    """What a kill between the two writes leaves."""
    old = make_tls(tmp_path, "fed", ["localhost"])
    made = make_tls(tmp_path, "fed", ["localhost"])
    write_pair(tmp_path, "server", KeyPair(made.server.certificate, old.server.key))
    with pytest.raises(ConfigError, match=r"server\.key is not the key of .*coordinator renew"):
        fresh_tls(tmp_path, "fed", ["localhost"])


def test_an_authority_that_is_damaged_makes_nothing(tmp_path):
    made = make_tls(tmp_path, "fed", ["localhost"])
    write_pair(tmp_path, "ca", KeyPair(made.ca.certificate, made.server.key))
    before = {p: p.read_bytes() for p in (tmp_path / "tls").iterdir()}
    with pytest.raises(ConfigError, match=r"ca\.key is not the key of .*restore it"):
        make_tls(tmp_path, "fed", ["localhost"])
    assert {p: p.read_bytes() for p in (tmp_path / "tls").iterdir()} == before


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_a_pair_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch, fails_at):
    """The key above all: without it the server's certificate is worth nothing."""
    write_pair(tmp_path, "server", KeyPair(b"a", b"b"))
    calls = []

    def fsync(_handle):
        calls.append(1)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        write_pair(tmp_path, "server", KeyPair(b"c", b"d"))
    found = read_pair(tmp_path, "server")
    assert found.certificate in (b"a", b"c")
    assert found.key in (b"b", b"d")
    assert {p.name for p in (tmp_path / "tls").iterdir()} == {"server.key", "server.pem"}


def test_a_pair_that_is_replaced_stays_private(tmp_path):
    write_pair(tmp_path, "server", KeyPair(b"a", b"b"))
    (tmp_path / "tls" / "server.key").chmod(0o644)
    write_pair(tmp_path, "server", KeyPair(b"c", b"d"))
    assert stat.S_IMODE((tmp_path / "tls" / "server.key").stat().st_mode) == 0o600
    assert read_pair(tmp_path, "server") == KeyPair(b"c", b"d")
