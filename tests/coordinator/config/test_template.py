"""What `coordinator init` writes: a short file for people, and with `--full` every key."""

import tomllib
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.config.defaults import EDITION, KEY
from fedmore.coordinator.config.schema import SECTIONS, FederationConfig, load_config, parse_config
from fedmore.coordinator.config.template import render
from fedmore.coordinator.folder.create import new_config
from fedmore.strategies.settings import descriptions, title
from fedmore.strategies.stages.kinds import KINDS


@pytest.fixture
def config() -> FederationConfig:
    return new_config(name="town", base="base", domains=("legal",), languages=("gl",))


def keys_of(text: str) -> set[str]:
    """`section.key` of all that a file says; a stage by its kind."""
    table = tomllib.loads(text)
    stages = {f"{stage['kind']}.{key}" for stage in table.pop("stages", ()) for key in stage}
    table.pop(KEY)
    return stages | {f"{name}.{key}" for name, section in table.items() for key in section}


def test_the_short_file_has_what_differs_from_the_defaults(config: FederationConfig) -> None:
    assert keys_of(render(config)) == {
        "federation.name", "federation.domains", "federation.languages", "base.model",
        "experts.kind", "language.kind", "router.kind",
    }  # fmt: skip


def test_the_full_file_has_every_key_and_a_stage_only_its_own(config: FederationConfig) -> None:
    wanted = {f"{name}.{f.name}" for name, section in SECTIONS.items() for f in fields(section)}
    stages = {f"{stage.kind}.{f.name}" for stage in config.stages for f in fields(stage)}
    assert keys_of(render(config, full=True)) == wanted | stages


@pytest.mark.parametrize("full", [False, True])
def test_every_key_has_its_description_where_it_first_stands(
    config: FederationConfig, full: bool
) -> None:
    text = render(config, full=full)
    told = [title(type(getattr(config, name))) for name in SECTIONS if f"\n[{name}]" in text]
    for owner in [*SECTIONS.values(), *(type(stage) for stage in config.stages)]:
        told += [
            said for key, said in descriptions(owner).items() if full and f"\n{key} = " in text
        ]
    assert told
    assert [line for line in told if f"# {line}" not in text] == []


def test_init_writes_the_short_file_or_the_full_one(tmp_path: Path, base: Path) -> None:
    lines = {}
    for name, options in (("short", []), ("full", ["--full"])):
        folder = tmp_path / name
        command = [
            "init",
            str(folder),
            "--base",
            str(base),
            "--domain",
            "legal",
            "--name",
            "x",
        ]
        done = CliRunner().invoke(app, [*command, *options])
        assert done.exit_code == 0, done.output
        lines[name] = (folder / "federation.toml").read_text(encoding="utf-8")
    assert len(keys_of(lines["short"])) < len(keys_of(lines["full"])) / 4
    assert load_config(tmp_path / "short") == load_config(tmp_path / "full")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_each_setting_alone_is_written_and_read_back(name: str, full: bool) -> None:
    """A setting that is not at its default is in the file, whichever it is."""
    table: dict[str, Any] = {"federation": {"name": "x"}, "base": {"model": "m"}}
    for field in fields(SECTIONS[name]):
        if field.default is MISSING or isinstance(field.default, str | tuple):
            continue
        value = not field.default if isinstance(field.default, bool) else field.default * 2 + 1
        changed = {**table, name: {**table.get(name, {}), field.name: value}}
        config = parse_config(changed, "test")
        text = render(config, full=full)
        assert tomllib.loads(text)[name][field.name] == value
        assert parse_config(tomllib.loads(text), "again") == config


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_stage_of_every_kind_is_written_with_what_it_changes(kind: str) -> None:
    table = {"defaults": EDITION, "federation": {"name": "x"}, "base": {"model": "m"}}
    config = parse_config(table | {"stages": [{"kind": kind, "timeout_s": 9.5}]}, "test")
    (written,) = tomllib.loads(render(config))["stages"]
    assert written == {"kind": kind, "timeout_s": 9.5}
    (whole,) = tomllib.loads(render(config, full=True))["stages"]
    assert whole.keys() == asdict(config.stages[0]).keys()
