"""The installed programs answer `--help` at once, and every option says what it does."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from quick_help import help_answers_at_once

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]["scripts"]


def group(program: str) -> Any:
    return typer.main.get_command(import_module(SCRIPTS[program].partition(":")[0]).app)


def commands(command: Any, path: str) -> dict[str, Any]:
    found = {path: command}
    for name, inner in getattr(command, "commands", {}).items():
        found |= commands(inner, f"{path} {name}")
    return found


COMMANDS = {k: v for program in SCRIPTS for k, v in commands(group(program), program).items()}


@pytest.mark.parametrize("program", SCRIPTS)
def test_an_installed_program_answers_at_once(program: str) -> None:
    script = Path(sys.executable).with_name(program)
    assert script.exists(), f"{script.name} is not installed; `make env`"
    assert help_answers_at_once([script])


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_says_what_it_does(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    assert command.help.splitlines()[0].endswith(".")
    silent = [p.name for p in command.params if not getattr(p, "help", None)]
    assert silent == []
