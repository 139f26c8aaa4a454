"""Pairs a registry and its store by a shared id, so that neither is used with another.

An empty registry, or that of another federation, names none of the store's blobs and would delete
them all as garbage. So nothing is opened before the two are known to belong together.
"""

import secrets

from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import STORE_ID
from fedmore.coordinator.tasks.blob_references import live
from fedmore.experts.errors import ConfigError, RegistryError


def pair(registry: Registry, store: Store) -> None:
    """Give a new registry and its store one id; raises `ConfigError` for a registry in use."""
    ours, theirs = registry.get_state(STORE_ID), store.owner()
    used = registry.members() or registry.invited() or registry.rounds()
    if used or (ours and ours != theirs):
        raise ConfigError(
            f"{registry.database.name} holds a federation already; give an empty database, or "
            "another folder"
        )
    _share(registry, store, theirs or secrets.token_hex(16))


def check_pair(registry: Registry, store: Store) -> None:
    """Raise `RegistryError` unless `registry` and `store` belong together.

    A folder without ids, from an earlier version, gets one if the registry names a blob of the
    store or the store is empty.
    """
    ours, theirs = registry.get_state(STORE_ID), store.owner()
    if ours and ours == theirs:
        return
    if theirs or not _at_home(registry, store, bool(ours)):
        raise RegistryError(_stranger(registry, store, empty=not ours))
    if not registry.database.frozen:
        _share(registry, store, ours or secrets.token_hex(16))


def _at_home(registry: Registry, store: Store, known: bool) -> bool:
    """Whether the blobs that the registry names and those in the store are of one federation."""
    there, named = store.digests(), live(registry.database, registry.digests)
    return bool(there & named) or (not there and not (known and named))


def _share(registry: Registry, store: Store, shared: str) -> None:
    store.own(shared)  # before the registry: after a kill in between, `pair` adopts this id
    registry.set_state(STORE_ID, shared)


def _stranger(registry: Registry, store: Store, *, empty: bool) -> str:
    what = "names none of its blobs" if empty else "has another id than its blobs"
    return (
        f"{registry.database.name}: not the registry of {store.root.parent}: it {what}; restore "
        "it from a copy, or set FEDMORE_DATABASE and server.database right; nothing was changed"
    )
