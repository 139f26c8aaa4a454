"""Databases that are not whole: said so, and not gone on with."""

import os

import pytest

from fedmore.coordinator.store.registry import FILE, Registry
from fedmore.experts.errors import RegistryError


@pytest.fixture
def path(tmp_path):
    """A registry's file of some pages."""
    with Registry.open(tmp_path) as registry:
        for number in range(200):
            registry.set_state(f"key {number}", "x" * 200)
    return tmp_path / FILE


def test_what_is_no_database_is_named(path):
    path.write_bytes(b"this is not what it was" * 1000)
    with pytest.raises(RegistryError, match=r"registry\.db: cannot be opened: .*not a database"):
        Registry.open(path.parent)


def test_a_database_that_was_cut_is_found_before_a_plan_goes_on(path):
    os.truncate(path, path.stat().st_size // 2)
    with (
        pytest.raises(RegistryError, match=r"registry\.db"),
        Registry.open(path.parent) as registry,
    ):
        registry.database.check()


def test_a_damaged_page_is_found(path):
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 4096)
        file.write(os.urandom(4096))
    wrong = pytest.raises(RegistryError, match=r"damaged|malformed")
    with wrong, Registry.open(path.parent) as registry:
        registry.database.check()


def test_a_whole_one_passes(path):
    with Registry.open(path.parent) as registry:
        registry.database.check()
