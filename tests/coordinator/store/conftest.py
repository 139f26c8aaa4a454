from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmore.coordinator.store.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A fresh registry in a folder of its own."""
    with Registry.open(tmp_path) as registry:
        yield registry
