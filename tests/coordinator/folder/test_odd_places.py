"""A federation in a folder of any name; and `--out` never takes anything's place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmore.coordinator.folder.create import create, new_config
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.invites import write_invite
from fedmore.coordinator.folder.operator_access import write_access
from fedmore.coordinator.monitor.mlflow_tracker import MlflowTracker
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import ConfigError

FOLDERS = ["a?b", "a%20b", "a#b", "a b", "a%b", "a&mode=ro", "ä 漢", "a'b\"c", "a:b@c", "a;b"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_any_name_holds_its_own_registry(tmp_path: Path, base: Path, name: str) -> None:
    directory = tmp_path / name
    config = new_config(name="demo", base=str(base), domains=("legal",), port=8470)
    create(directory, config)
    write_invite(directory, "amt", tmp_path / "amt.json")
    with open_federation(directory) as federation:
        assert [m.name for m in federation.registry.invited()] == ["amt"]
    assert (directory / "registry.db").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {name, "base", "amt.json"}


@pytest.mark.slow
def test_a_folder_of_any_name_holds_its_own_runs(tmp_path: Path) -> None:
    directory = tmp_path / "a?b%20c#d&e f"
    directory.mkdir()
    tracker = MlflowTracker(directory)
    tracker.start(new_config(name="demo", base="b", domains=("legal",)))
    tracker.finish()
    assert (directory / "mlflow.db").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {directory.name}


WRITERS: dict[str, Callable[[Path, Path], Any]] = {
    "invite": lambda directory, out: write_invite(directory, "amt", out),
    "operator": lambda directory, out: write_access(directory, "bea", out, 30),
}


@pytest.fixture
def directory(federation: Path) -> Path:
    text = (federation / "federation.toml").read_text(encoding="utf-8")
    (federation / "federation.toml").write_text(text.replace("port = 0", "port = 8470"), "utf-8")
    return federation


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("place", ["federation.toml", "registry.db", "tls/ca.key", "tls"])
def test_what_is_there_is_never_overwritten(directory: Path, kind: str, place: str) -> None:
    out = directory / place
    before = out.read_bytes() if out.is_file() else None
    with pytest.raises(ConfigError, match="exists already and is not overwritten"):
        WRITERS[kind](directory, out)
    assert before is None or out.read_bytes() == before
    with Registry.open(directory) as registry:  # nothing was made that nobody has
        assert registry.invited() == []
        assert "bea" not in registry.get_state("operators", {})


@pytest.mark.parametrize("kind", WRITERS)
def test_a_link_that_leads_nowhere_is_not_written_through(
    directory: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out.json"
    out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="exists already"):
        WRITERS[kind](directory, out)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_made_is_its_owners_alone(directory: Path, tmp_path: Path, kind: str) -> None:
    WRITERS[kind](directory, tmp_path / "out.json")
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o600
