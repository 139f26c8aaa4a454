"""Whether a mixture may still be used; one that holds a withdrawn owner's part may not."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import RegistryError
from fedmore.experts.mixture.checkpoint import read_recipe


def mark_of(withdrawn: Collection[str]) -> str:
    """The mark of the owners who had withdrawn when a mixture was made; no names."""
    if not withdrawn:
        return ""
    return hashlib.sha256(json.dumps(sorted(withdrawn)).encode()).hexdigest()


def check_current(directory: Path, folder: Path, registry: Registry) -> None:
    """Raise `RegistryError` if an owner has withdrawn since the mixture in `folder` was made.

    Its experts, or its router, may hold that owner's work.
    """
    gone = registry.withdrawn()
    if gone and read_recipe(folder).without != mark_of(gone):
        raise RegistryError(
            f"{folder}: made before {', '.join(sorted(gone))} withdrew, so it is used no more; "
            f"`coordinator assemble {directory}` makes it without them"
        )
