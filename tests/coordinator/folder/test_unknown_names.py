"""An unknown name: the error says which ones there are, or which command lists them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import OPERATORS, PORT
from fedmore.experts.errors import RegistryError
from fedmore.experts.names import FEW

Fill = Callable[[Registry, list[str]], None]
FORGOTTEN = "forgotten"


def run(*arguments: object) -> str:
    """A command in this process; what it printed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def members(registry: Registry, names: list[str]) -> None:
    """The last one is invited only."""
    for name in names:
        token = registry.invite(name)
        if name != names[-1]:
            registry.enrol(token, name, "expert", "legal", 4)


def experts(registry: Registry, names: list[str]) -> None:
    for round_ in (1, 2):
        for name in names:
            registry.add_expert(
                name=name, kind="expert", target=name, rank=4, params=8, stage=0, round=round_,
                digest="0" * 64,
            )  # fmt: skip


def operators(registry: Registry, names: list[str]) -> None:
    entry = {"identity": "0" * 64, "made": "", "expires": ""}
    registry.set_state(OPERATORS, dict.fromkeys(names, entry))


COMMANDS: dict[str, tuple[Fill, list[str], list[str]]] = {
    "revoke": (members, ["revoke", "DIR", FORGOTTEN], ["status"]),
    "withdraw": (members, ["withdraw", "DIR", FORGOTTEN], ["status"]),
    "invite --again": (
        members,
        ["invite", "DIR", FORGOTTEN, "--again", "--out", "OUT"],
        ["status"],
    ),
    "assemble": (experts, ["assemble", "DIR", "--experts", f"a0,{FORGOTTEN}"], ["experts"]),
    "operator revoke": (operators, ["operator", "revoke", "DIR", FORGOTTEN], ["operator", "list"]),
    "operator rotate": (operators, ["operator", "rotate", "DIR", FORGOTTEN], ["operator", "list"]),
}
"""By command: what it names, how it is called, and the command that lists what there is."""


def refused(directory: Path, command: str, names: list[str]) -> str:
    """What the command says where these names are known."""
    fill, arguments, _ = COMMANDS[command]
    with Registry.open(directory) as registry:
        registry.set_state(PORT, 1)
        fill(registry, names)
    places = {"DIR": str(directory), "OUT": str(directory.parent / "out.json")}
    with pytest.raises(RegistryError) as caught:
        run(*(places.get(a, a) for a in arguments))
    assert not (directory.parent / "out.json").exists()
    assert repr(FORGOTTEN) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_few_are_listed(federation: Path, command: str) -> None:
    names = [f"a{i}" for i in range(FEW)]
    text = refused(federation, command, names)
    assert text.endswith(f"; there are: {', '.join(sorted(names))}")


@pytest.mark.parametrize("command", COMMANDS)
def test_of_many_the_number_is_told_and_the_command_that_lists_them(
    federation: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    names = [f"a{i}" for i in range(FEW + 1)]
    listing = " ".join(COMMANDS[command][2])
    text = refused(federation, command, names)
    assert text.endswith(f"; there are {FEW + 1}, listed by `coordinator {listing} DIR`")
    shown = run(*COMMANDS[command][2], federation)
    assert set(names) <= set(re.findall(r"\ba\d+\b", shown))


def test_where_there_is_nobody_that_is_said(federation: Path) -> None:
    assert refused(federation, "revoke", []).endswith("; there is none yet")
