"""SQLite, and a PostgreSQL server of the tests' own from Debian's packages, on a unix socket."""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.tasks.journal import Journal

FOLDER = Path("/usr/lib/postgresql")
USER = "nobody"
"""PostgreSQL refuses to run as root."""


def programs() -> Path:
    """The folder of `initdb` and `postgres`; installs Debian's package where it can."""
    found = sorted(FOLDER.glob("*/bin/postgres"))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "postgresql"], check=False)
        found = sorted(FOLDER.glob("*/bin/postgres"))
    if not found:
        pytest.skip("PostgreSQL is not here; apt-get install postgresql")
    return found[-1].parent


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """A server whose data and socket are in `folder`; the URL of an empty database."""
    binaries, data = programs(), folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    root = os.geteuid() == 0
    if root:
        shutil.chown(folder, USER)
    options = {"user": USER} if root else {}
    environment = os.environ | {"HOME": str(folder), "LC_ALL": "C.UTF-8"}

    def run(*command: str | Path) -> None:
        subprocess.run(
            [str(part) for part in command],
            check=True,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            **options,
        )

    run(binaries / "initdb", "-D", data, "-U", "fedmore", "-A", "trust", "-N", "--no-instructions")
    quick = ["-c", "fsync=off", "-c", "full_page_writes=off"]  # no power cut is tested
    command = [binaries / "postgres", "-D", data, "-k", folder, "-h", "", *quick]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stderr=log, **options)
    try:
        wait_until_ready([str(binaries / "pg_isready"), "-q", "-h", str(folder)], server)
        yield f"postgresql+psycopg://fedmore@/postgres?host={folder}"
    finally:
        server.terminate()  # SIGTERM waits for sessions; ours are closed
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_until_ready(command: Sequence[str], server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while subprocess.run(command, check=False).returncode:
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not come up"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server; pytest's own folders are closed to the user that it runs as."""
    with tempfile.TemporaryDirectory(prefix="fedmore-") as folder:
        Path(folder).chmod(0o755)
        with running_server(Path(folder) / "postgres") as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    server = make_url(request.getfixturevalue("postgres"))
    fresh = server.set(database=f"test_{uuid.uuid4().hex[:12]}")
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {fresh.database}"))
    admin.dispose()
    return fresh.render_as_string()


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    with Registry(url) as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "blobs")


@pytest.fixture
def journal(registry: Registry, store: Store) -> Journal:
    return Journal(registry.database, store, registry.digests)
