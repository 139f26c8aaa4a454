import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedmore.coordinator.registry import Registry
from fedmore.experts.errors import ConfigError, NameTakenError, RegistryError, TokenError


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path) as registry:
        yield registry


def join(registry: Registry, name: str) -> str:
    return registry.enrol(registry.invite(name), name, "expert", "legal", 4)[1]


def test_invite_enrol_authenticate(registry: Registry) -> None:
    token = registry.invite("amt")
    assert registry.members() == []
    assert [m.name for m in registry.invited()] == ["amt"]
    member, credential = registry.enrol(token, "amt", "expert", "legal", 4)
    assert (member.kind, member.target, member.rank) == ("expert", "legal", 4)
    assert 0 < member.node_id < 2**63
    assert registry.authenticate(credential) == member
    assert registry.members() == [member] == [registry.member(member.node_id)]
    assert registry.invited() == []


def test_no_secret_is_stored(registry: Registry, tmp_path: Path) -> None:
    token = registry.invite("amt")
    _, credential = registry.enrol(token, "amt", "expert", "legal", 4)
    content = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"amt" in content
    assert token.encode() not in content
    assert credential.encode() not in content


def test_a_token_works_once(registry: Registry) -> None:
    token = registry.invite("amt")
    registry.enrol(token, "amt", "expert", "legal", 4)
    with pytest.raises(TokenError, match="a client of that name has joined"):
        registry.enrol(token, "amt", "expert", "legal", 4)


def test_a_token_is_bound_to_its_name(registry: Registry) -> None:
    with pytest.raises(TokenError, match="'other'"):
        registry.enrol(registry.invite("amt"), "other", "expert", "legal", 4)


def test_an_expired_token_is_refused(registry: Registry) -> None:
    with pytest.raises(TokenError, match="expired at"):
        registry.enrol(registry.invite("amt", expires_s=-1), "amt", "expert", "legal", 4)


def test_a_second_invite_replaces_an_unused_one(registry: Registry) -> None:
    first, second = registry.invite("amt"), registry.invite("amt")
    with pytest.raises(TokenError, match="newer one"):
        registry.enrol(first, "amt", "expert", "legal", 4)
    registry.enrol(second, "amt", "expert", "legal", 4)


def test_a_name_that_has_joined_is_taken(registry: Registry) -> None:
    credential = join(registry, "amt")
    with pytest.raises(NameTakenError, match="'amt' has already joined"):
        registry.invite("amt")
    assert registry.authenticate(credential).name == "amt"


def test_of_many_at_once_one_gets_in(registry: Registry) -> None:
    token = registry.invite("amt")

    def attempt(_: int) -> bool:
        try:
            registry.enrol(token, "amt", "expert", "legal", 4)
        except TokenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "with space", "x" * 65, "ä"])
def test_a_name_is_fit_for_a_file_name(registry: Registry, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a name"):
        registry.invite(name)


def test_an_unknown_credential_is_refused(registry: Registry) -> None:
    with pytest.raises(TokenError, match="not known"):
        registry.authenticate("guess")


def test_traffic_and_tokens_add_up_over_threads(registry: Registry) -> None:
    join(registry, "amt")

    def work(_: int) -> None:
        registry.add_traffic("amt", 3, 5)
        registry.add_tokens("amt", 7)
        registry.touch("amt")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(10)))
    member = registry.members()[0]
    assert (member.bytes_up, member.bytes_down, member.train_tokens) == (30, 50, 70)
    assert member.last_seen is not None
    assert member.last_seen.tzinfo is UTC
    with pytest.raises(RegistryError, match="'nobody'"):
        registry.touch("nobody")


def test_another_process_writes_meanwhile(registry: Registry, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from fedmore.coordinator.registry import Registry\n"
        "with Registry.open(Path(sys.argv[1])) as r:\n"
        "    for i in range(20): r.invite(f'client-{i}')\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as process:
        for _ in range(40):
            registry.add_event("tick")
        assert process.wait(60) == 0
    assert len(registry.invited()) == 20
    assert len(registry.events()) == 40


def version(registry: Registry, round_: int, digest: str, stage: int = 0) -> None:
    registry.add_expert(
        name="legal", kind="expert", target="legal", rank=16, params=9, stage=stage,
        round=round_, digest=digest, metrics={"loss": 1.5},
    )  # fmt: skip


def test_every_version_is_kept_and_a_repeated_round_replaces_its_own(registry: Registry) -> None:
    version(registry, 0, "a" * 64)
    version(registry, 1, "b" * 64)
    version(registry, 1, "c" * 64)
    assert [e.digest[0] for e in registry.experts()] == ["a", "c"]
    assert registry.latest("legal").digest[0] == "c"
    assert registry.latest("legal").metrics == {"loss": 1.5}
    with pytest.raises(RegistryError, match=r"'medical'; there are: legal"):
        registry.latest("medical")


def test_rounds_events_and_state_survive_a_reopening(tmp_path: Path) -> None:
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with Registry.open(tmp_path) as first:
        first.add_round(stage=1, kind="language", round=0, metrics={}, started_at=started)
        first.add_round(stage=0, kind="experts", round=0, metrics={"clients": {"a": {"loss": 2}}})
        first.add_round(stage=0, kind="experts", round=0, metrics={"clients": {"a": {"loss": 1}}})
        first.add_event("joined", "a", {"rank": 4})
        first.set_state("phase", "running")
        first.set_state("phase", {"stage": 1})
    with Registry.open(tmp_path) as second:
        rounds = second.rounds()
        assert [(r.stage, r.round) for r in rounds] == [(0, 0), (1, 0)]
        assert rounds[0].metrics["clients"]["a"]["loss"] == 1
        assert rounds[1].started_at == started
        assert rounds[1].finished_at > started
        assert [(e.kind, e.name, e.payload) for e in second.events()] == [
            ("joined", "a", {"rank": 4})
        ]
        assert second.get_state("phase") == {"stage": 1}
        assert second.get_state("nothing", 7) == 7


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(RegistryError, match=r"registry\.db.*not a database"):
        Registry.open(tmp_path)
