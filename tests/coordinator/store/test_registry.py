import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import RegistryError


def test_another_process_writes_meanwhile(registry: Registry, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from fedmore.coordinator.store.registry import Registry\n"
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
