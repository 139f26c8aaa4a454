"""Opens a federation's folder, for every command but `init`."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from fedmore.coordinator.config.schema import FederationConfig, load_config
from fedmore.coordinator.config.terms import terms_of
from fedmore.coordinator.folder.layout import BLOBS, LOCK
from fedmore.coordinator.folder.pairing import check_pair
from fedmore.coordinator.folder.recovery_rounds import with_recovery
from fedmore.coordinator.store import read_only
from fedmore.coordinator.store import registry as registries
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.database_url import check_url
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import RegistryError, StoreError, TransportError
from fedmore.protos.enrolment.federation_info import FederationInfo

DATABASE = "FEDMORE_DATABASE"
"""Environment variable with the URL of the database, which overrides `server.database`."""


@dataclass(frozen=True)
class Federation:
    """One federation: its folder, configuration, registry and store."""

    directory: Path
    config: FederationConfig
    registry: Registry
    store: Store

    def with_config(self, config: FederationConfig) -> "Federation":
        """The same federation with another configuration."""
        return replace(self, config=config)


@contextmanager
def open_federation(directory: Path) -> Iterator[Federation]:
    """Open the federation in `directory`; raises `ConfigError` or `RegistryError` if it cannot be.

    The registry is checked for damage and for belonging to the store. A read-only folder can be
    opened for reading.
    """
    config = load_config(directory)
    url, database = database_url(config), directory / registries.FILE
    if not url and not database.is_file():
        raise RegistryError(
            f"{database} is missing, and with it every member and expert; restore it from a copy"
        )
    store, frozen = Store(directory / BLOBS), not read_only.writable(directory, database)
    with Registry.open(directory, url, make=False, frozen=frozen) as registry:
        registry.database.check()
        check_pair(registry, store)
        yield Federation(directory, with_recovery(config, registry), registry, store)


def database_url(config: FederationConfig) -> str:
    """The registry's URL from the environment or configuration; empty if it is in the folder."""
    url = os.environ.get(DATABASE, "") or config.server.database
    if url:
        check_url(url)
    return url


@contextmanager
def running_alone(directory: Path, patience_s: float = 1.0) -> Iterator[None]:
    """Hold the folder's lock; the system releases it when the process dies for any reason.

    Raises `TransportError` if another coordinator holds it. `status` takes the lock for a moment,
    so the attempt is repeated for `patience_s` seconds.
    """
    deadline = time.monotonic() + patience_s
    with _lock_file(directory) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TransportError(
                        f"{directory}: another `coordinator start` is running on this federation"
                    ) from None
                time.sleep(0.02)
        yield


def _lock_file(directory: Path) -> TextIO:
    try:
        return (directory / LOCK).open("a")
    except OSError as error:
        raise StoreError(
            f"{directory / LOCK}: cannot be written: {error.strerror}; a coordinator needs a "
            "folder that it may write to"
        ) from error


def is_running(directory: Path) -> bool:
    """Whether a running coordinator holds the folder's lock."""
    try:
        with (directory / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def info_of(config: FederationConfig) -> FederationInfo:
    """The federation's description for clients."""
    base = config.base
    return FederationInfo(
        name=config.federation.name,
        base=base.model,
        fingerprint=base.fingerprint,
        dtype=base.dtype,
        quantization=base.quantization,
        seed=config.federation.seed,
        plan="" if config.federation.app else terms_of(config).dump(),
        run_config=config.federation.run_config,
        opener=base.opener,
        open_windows=base.open_windows,
    )
