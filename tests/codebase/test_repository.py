"""What a host of repositories reads: it parses, and names what is there."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
YAML = [
    ROOT / "CITATION.cff",
    ROOT / ".pre-commit-config.yaml",
    *sorted((ROOT / ".github").rglob("*.yml")),
]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_it_parses(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_workflows_call_targets_that_the_makefile_has() -> None:
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / ".github").rglob("*.yml")]
    texts.append((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    called = {target for text in texts for target in re.findall(r"\bmake ([a-z]+)", text)}
    assert {"test", "slow", "env"} <= called
    assert [target for target in called if f"\n{target}:" not in made] == []


def test_the_version_to_cite_is_the_package_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])


def test_an_editor_finds_the_package_where_mypy_does() -> None:
    settings = json.loads((ROOT / "pyrightconfig.json").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert [f"$MYPY_CONFIG_FILE_DIR/{path}" for path in settings["extraPaths"]] == [
        project["tool"]["mypy"]["mypy_path"]
    ]
