import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from owners import owner

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder import create as inits
from fedmore.coordinator.folder.federation import Federation, open_federation
from fedmore.coordinator.folder.invites import write_invite
from fedmore.coordinator.folder.open_journal import open_journal
from fedmore.coordinator.pki.tls_files import read_tls
from fedmore.coordinator.rpc.server import Server, serve
from fedmore.coordinator.run.lifecycle import info_of
from fedmore.coordinator.store.state_keys import PORT
from fedmore.coordinator.tasks.journal import Journal
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.base.model import Base, fingerprint_of, load_base


@pytest.fixture
def base(tiny: Path) -> Base:
    return load_base(str(tiny), "float32")


@pytest.fixture
def texts() -> list[str]:
    return [f"stir the soup {i} times, wait {i} minutes, then taste the broth." for i in range(12)]


@pytest.fixture
def context(tiny: Path, tmp_path: Path, texts: list[str]) -> Context:
    """The owner of `texts`, who trains a kitchen expert of rank 4."""
    data = tmp_path / "data"
    data.mkdir()
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (data / "docs.jsonl").write_text("".join(lines), encoding="utf-8")
    config: dict[str, bool | float | int | str] = {
        "name": "a", "kind": "expert", "target": "kitchen", "rank": 4, "data": str(data),
        "base": str(tiny), "dtype": "float32", "device": "cpu", "quantization": "none",
        **owner(tmp_path / "state", "a", min_tokens=32),
    }  # fmt: skip
    return Context(1, 5, config, RecordDict(), {})


@pytest.fixture(scope="session")
def fingerprint(tiny: Path) -> str:
    return fingerprint_of(str(tiny))


@dataclass
class Hub:
    """A coordinator that is up, without a plan."""

    federation: Federation
    journal: Journal
    server: Server
    queue: TaskQueue

    def invite(self, name: str) -> Path:
        """A fresh invite."""
        out = self.federation.directory / f"{name}.json"
        write_invite(self.federation.directory, name, out)
        return out


@pytest.fixture
def config(tiny: Path) -> FederationConfig:
    return inits.new_config(
        name="demo", base=str(tiny), domains=("legal", "medical"), languages=("gl",), port=0
    )


@pytest.fixture
def hub(tmp_path: Path, config: FederationConfig) -> Iterator[Hub]:
    directory = tmp_path / "hub"
    made, queue = inits.create(directory, config), TaskQueue()
    with open_federation(directory) as federation:
        tls = read_tls(directory)
        journal = open_journal(federation)
        server = serve(
            federation.registry, journal, queue, made, info_of(made),
            lambda _: None,
            tls=tls,
        )  # fmt: skip
        federation.registry.set_state(PORT, server.port)
        yield Hub(federation, journal, server, queue)
        server.stop()
