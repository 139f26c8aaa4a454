import json
from dataclasses import asdict
from datetime import UTC, datetime

import pytest

from fedmore.experts.errors import ConfigError, TokenError
from fedmore.protos.enrolment.invite import Invite, host_of, is_loopback, read_invite

INVITE = Invite(
    "fed", "ada", "127.0.0.1:1", "PEM", "PEM", "secret key", "secret", "2030-01-01T00:00:00+00:00"
)


def test_what_is_written_is_read_and_private(tmp_path):
    path = tmp_path / "ada.invite"
    INVITE.write(path)
    assert read_invite(path) == INVITE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["ada.invite"]


def test_secrets_stay_out_of_logs():
    assert "secret" not in repr(INVITE)


@pytest.mark.parametrize(
    ("address", "alone"),
    [
        ("localhost:1", True), ("127.0.0.1:1", True), ("127.8.8.8:1", True), ("[::1]:1", True),
        ("0.0.0.0:1", False), ("[::]:1", False), ("192.0.2.1:1", False), ("hub.example:1", False),
        ("localhost.example:1", False), ("127.0.0.1.example:1", False), ("", False),
    ],
)  # fmt: skip
def test_which_addresses_are_this_machine_alone(address, alone):
    assert is_loopback(host_of(address)) is alone


def test_expiry():
    INVITE.check_expiry(datetime(2029, 12, 31, tzinfo=UTC))
    with pytest.raises(TokenError, match="expired"):
        INVITE.check_expiry(datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"token": 3}, "token"),
        ({"address": ""}, "address"),
        ({"ca": 5}, "ca"),
        ({"ca": None}, "or all of them null"),
        ({"certificate": None}, "or all of them null"),
        ({"key": None}, "or all of them null"),
        ({"expires": "soon"}, "expires"),
        ({"expires": "2030-01-01T00:00:00"}, "zone"),
        ({"more": "x"}, "not an invite"),
    ],
)
def test_a_damaged_invite_says_what_is_wrong(tmp_path, change, says):
    path = tmp_path / "invite"
    path.write_text(json.dumps(asdict(INVITE) | change))
    with pytest.raises(ConfigError, match=says):
        read_invite(path)


@pytest.mark.parametrize("text", ["", "[1]", "not json", "{}"])
def test_what_is_no_invite_is_refused(tmp_path, text):
    path = tmp_path / "invite"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not an invite"):
        read_invite(path)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_invite(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        read_invite(tmp_path / "binary")
