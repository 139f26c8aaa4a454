"""`evaluation.json`: written with its digest in the registry, and checked when it is read."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmore.coordinator.folder.layout import EVALUATION
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import EVALUATION_DIGEST
from fedmore.experts.errors import RegistryError, StoreError
from fedmore.protos.system.files import write_durably

log = logging.getLogger(__name__)


def write_scores(directory: Path, registry: Registry, scores: Mapping[str, Any]) -> None:
    """Write the file; in a read-only folder, log a warning instead."""
    file, data = directory / EVALUATION, (json.dumps(scores, indent=2) + "\n").encode()
    if registry.database.frozen or not os.access(directory, os.W_OK):
        log.warning("%s: not written, because the folder is read-only", file)
        return
    registry.set_state(EVALUATION_DIGEST, f"sha256:{hashlib.sha256(data).hexdigest()}")
    try:
        write_durably(file, data)
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error.strerror}") from error


def read_scores(directory: Path, registry: Registry) -> dict[str, Any] | None:
    """Read the file; None if it is missing. Raises `RegistryError` if it is damaged."""
    file = directory / EVALUATION
    try:
        data = file.read_bytes()
        known = registry.get_state(EVALUATION_DIGEST)
        if known and known != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise ValueError("its digest does not match")
        found: dict[str, Any] = json.loads(data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"{file}: damaged ({error}); `coordinator evaluate {directory}` makes it again"
        ) from error
    return found
