"""Members in the registry: invited, enrolled, revoked, withdrawn."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedmore.coordinator.store import enrolment_tokens
from fedmore.coordinator.store.records import Member
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import (
    ConfigError,
    MembershipError,
    NameTakenError,
    RegistryError,
    TokenError,
)

KEY, OTHER = "ab" * 32, "cd" * 32


def enrol(registry: Registry, token: str, identity: str | None = KEY, rank: int = 4) -> Member:
    return registry.enrol(token, "amt", "expert", "legal", rank, identity)


def test_invite_enrol_authenticate(registry: Registry) -> None:
    token = registry.invite("amt")
    assert registry.members() == []
    assert [m.name for m in registry.invited()] == ["amt"]
    until = datetime(2030, 1, 2, tzinfo=UTC)
    member = registry.enrol(token, "amt", "expert", "legal", 4, KEY, until)
    assert (member.kind, member.target, member.rank) == ("expert", "legal", 4)
    assert (member.certificate_expires, member.barred) == (until, "")
    assert 0 < member.node_id < 2**63
    assert registry.authenticate(KEY) == member
    assert registry.members() == [member] == [registry.member(member.node_id)]
    assert registry.invited() == []
    later = datetime(2031, 1, 2, tzinfo=UTC)
    registry.renewed("amt", later)
    assert registry.authenticate(KEY).certificate_expires == later


def test_a_token_is_not_stored(registry: Registry, tmp_path: Path) -> None:
    token = registry.invite("amt")
    enrol(registry, token)
    content = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"amt" in content
    assert token.encode() not in content


def test_a_token_works_again_for_the_same_key_and_choice_alone(registry: Registry) -> None:
    token = registry.invite("amt")
    first = enrol(registry, token)
    assert enrol(registry, token) == first
    for identity, rank in ((OTHER, 4), (KEY, 8), (None, 4)):
        with pytest.raises(TokenError, match="a client of that name has joined"):
            enrol(registry, token, identity, rank)
    assert registry.members() == [first]


def test_without_a_key_a_token_works_once(registry: Registry) -> None:
    token = registry.invite("amt")
    enrol(registry, token, None)
    with pytest.raises(TokenError, match="has joined"):
        enrol(registry, token, None)


def test_a_key_is_one_members_alone(registry: Registry) -> None:
    enrol(registry, registry.invite("amt"))
    with pytest.raises(TokenError, match="another member's"):
        registry.enrol(registry.invite("klinik"), "klinik", "expert", "medical", 4, KEY)
    assert [m.name for m in registry.invited()] == ["klinik"]


def test_a_token_is_bound_to_its_name(registry: Registry) -> None:
    with pytest.raises(TokenError, match="'other'"):
        registry.enrol(registry.invite("amt"), "other", "expert", "legal", 4, KEY)


def test_an_expired_token_is_refused_unless_it_was_used_in_time(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = registry.invite("klinik", expires_s=60)
    used = registry.invite("amt", expires_s=60)
    first = enrol(registry, used)
    monkeypatch.setattr(enrolment_tokens, "now", lambda: datetime.now(UTC) + timedelta(seconds=61))
    assert enrol(registry, used) == first
    with pytest.raises(TokenError, match="'klinik' expired at"):
        registry.enrol(unused, "klinik", "expert", "legal", 4, OTHER)


def test_a_second_invite_replaces_an_unused_one(registry: Registry) -> None:
    first, second = registry.invite("amt"), registry.invite("amt")
    with pytest.raises(TokenError, match="newer one"):
        enrol(registry, first)
    enrol(registry, second)


def test_a_name_that_has_joined_is_taken(registry: Registry) -> None:
    enrol(registry, registry.invite("amt"))
    with pytest.raises(NameTakenError, match="'amt' has already joined"):
        registry.invite("amt")
    assert registry.authenticate(KEY).name == "amt"


def test_of_many_at_once_one_gets_in(registry: Registry) -> None:
    token = registry.invite("amt")

    def attempt(number: int) -> bool:
        try:
            enrol(registry, token, f"{number:064x}")
        except TokenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "with space", "x" * 65, "ä"])
def test_a_name_is_fit_for_a_file_name(registry: Registry, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a name"):
        registry.invite(name)


def test_an_unknown_identity_is_refused(registry: Registry) -> None:
    registry.invite("amt")
    with pytest.raises(TokenError, match="not known"):
        registry.authenticate(KEY)


def test_a_revoked_member_is_barred_and_its_token_too(registry: Registry) -> None:
    token = registry.invite("amt")
    node = enrol(registry, token).node_id
    assert registry.barred() == {}
    registry.revoke("amt", "left the company")
    registry.revoke("amt", "again")
    barred = registry.authenticate(KEY).barred
    assert barred.startswith("revoked by the operator 20")
    assert barred.endswith("UTC: left the company")
    assert registry.barred() == {node: barred}
    assert registry.withdrawn() == set()
    with pytest.raises(MembershipError, match="left the company"):
        enrol(registry, token)
    with pytest.raises(NameTakenError):
        registry.invite("amt")
    [event] = registry.events()
    assert (event.kind, event.name, event.payload["reason"]) == (
        "revoked",
        "amt",
        "left the company",
    )
    with pytest.raises(RegistryError, match="'nobody'"):
        registry.revoke("nobody")


def test_an_unused_invite_can_be_revoked_and_made_again(registry: Registry) -> None:
    token = registry.invite("amt")
    registry.revoke("amt")
    assert registry.invited() == []
    with pytest.raises(MembershipError, match=r"revoked by the operator .* UTC$"):
        enrol(registry, token)
    enrol(registry, registry.invite("amt"))


def test_a_withdrawn_member_is_barred_and_named(registry: Registry) -> None:
    enrol(registry, registry.invite("amt"))
    registry.withdraw("amt", "x" * 9999)
    member = registry.authenticate(KEY)
    assert registry.withdrawn() == {"amt"}
    assert member.barred.startswith("withdrawn by its owner")
    assert member.withdrawn_reason == "x" * 500
    registry.revoke("amt", "later")
    assert registry.withdrawn() == {"amt"}
    assert registry.authenticate(KEY).barred.endswith("later")


def test_traffic_and_tokens_add_up_over_threads(registry: Registry) -> None:
    enrol(registry, registry.invite("amt"))

    def work(_: int) -> None:
        registry.add_traffic("amt", 3, 5)
        registry.add_tokens("amt", 7)
        registry.account({"amt": (1, 2)}, ["amt"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(10)))
    member = registry.members()[0]
    assert (member.bytes_up, member.bytes_down, member.train_tokens) == (40, 70, 70)
    assert member.last_seen is not None
    assert member.last_seen.tzinfo is UTC
    with pytest.raises(RegistryError, match="'nobody'"):
        registry.add_traffic("nobody", 1, 1)


def test_accounts_are_of_those_who_are_named_and_of_nobody_else(registry: Registry) -> None:
    for index, name in enumerate(("ada", "amt", "bob")):
        registry.enrol(registry.invite(name), name, "app", "", 0, str(index))
    before = {m.name: m.last_seen for m in registry.members()}
    registry.account({"ada": (1, 2), "bob": (30, 40)}, {"amt"})
    registry.account({}, set())
    after = {m.name: m for m in registry.members()}
    counts = {name: (m.bytes_up, m.bytes_down) for name, m in after.items()}
    assert counts == {"ada": (1, 2), "amt": (0, 0), "bob": (30, 40)}
    assert [n for n, m in after.items() if m.last_seen != before[n]] == ["amt"]
