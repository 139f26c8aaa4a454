"""`constraints.txt` pins what `pyproject.toml` names, within the bounds that it gives."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): Version(version) for name, version in pairs}


def named() -> Iterator[Requirement]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [
        table["build-system"]["requires"],
        table["project"]["dependencies"],
        *table["project"]["optional-dependencies"].values(),
        *table["dependency-groups"].values(),
    ]
    for group in groups:
        yield from map(Requirement, group)


@pytest.mark.parametrize("requirement", sorted(set(named()), key=str), ids=str)
def test_a_requirement_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    version = pins().get(canonical(requirement.name))
    assert version is not None, "not in constraints.txt"
    assert requirement.specifier.contains(version)


def test_no_pin_has_a_local_part_that_pypi_does_not_have() -> None:
    assert [name for name, version in pins().items() if version.local] == []


def test_pins_are_sorted_and_each_there_once() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    names = [canonical(line.partition("==")[0]) for line in lines]
    assert len(names) == len(set(names))
    assert names == sorted(names)
