"""Which base `join` opens: the owner's choice, and never a path that a coordinator names."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmore.client.egress.audit_log import Audit
from fedmore.client.hardware.device import Machine
from fedmore.client.joining import base_choice
from fedmore.client.joining import join as joins
from fedmore.client.joining.base_choice import choose_base
from fedmore.client.joining.join import JoinOptions
from fedmore.experts.base import files
from fedmore.experts.errors import BaseError
from fedmore.protos.enrolment.federation_info import FederationInfo


def info(base: str) -> FederationInfo:
    return FederationInfo("demo", base)


@pytest.mark.parametrize(
    "base",
    [
        "/srv/models/x",
        "~/models/x",
        "./x",
        "../x",
        "a/b/c",
        ".",
        "",
        "x\x1b[2J",
        "C:\\models",
        "a b",
    ],
)
def test_a_path_of_the_coordinators_is_not_opened(base: str) -> None:
    with pytest.raises(BaseError, match=r"no path is opened unasked.*--base PATH") as caught:
        choose_base(None, info(base), print)
    assert "\x1b" not in str(caught.value)
    assert choose_base("/mine", info(base), print) == "/mine"


def test_a_name_that_is_a_folder_here_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private" / "notes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("private", "private/notes"):
        with pytest.raises(BaseError, match="no path is opened unasked"):
            choose_base(None, info(name), print)


@pytest.mark.parametrize("name", ["gpt2", "HuggingFaceTB/SmolLM2-135M", "a_b/C-d.e"])
def test_a_name_on_the_hub_is_said(name: str) -> None:
    said: list[str] = []
    assert choose_base(None, info(name), said.append) == name
    assert len(said) == 1
    assert name in said[0]


def test_join_opens_nothing_that_the_owner_did_not_name(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's base is a folder on this very machine; not one of its files is looked at."""
    monkeypatch.setattr(joins, "inspect_machine", lambda: Machine("Fast CPU", 2, 2**30, 2**30))
    opened: list[str] = []
    monkeypatch.setattr(files, "folder_of", lambda name: opened.append(name) or Path(name))
    monkeypatch.setattr(base_choice, "check_base", lambda base, _info: opened.append(base))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "one.txt").write_text("A private text.")
    options = JoinOptions(
        hub.invite("amt"), tmp_path / "text", "expert", "legal", state=tmp_path / "state"
    )
    with pytest.raises(BaseError, match="no path is opened unasked"):
        joins.join(options, lambda _: None)
    assert opened == []
    assert [m.name for m in hub.federation.registry.invited()] == ["amt"]


def test_a_home_is_found_as_the_shell_would(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert files.folder_of(f"~/{tiny.name}") == tiny
    with pytest.raises(BaseError, match="neither a directory nor a model"):
        files.folder_of("~/nothing here")
    assert os.environ["HOME"] == str(tiny.parent)


def test_the_base_is_not_taken_from_an_earlier_answer_either(
    hub: Any, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coming back, the path is still the coordinator's."""
    (tmp_path / "one.txt").write_text("A private text. " * 200)
    options = JoinOptions(
        hub.invite("amt"), tmp_path / "one.txt", "expert", "legal", rank=4,
        state=tmp_path / "state", base=str(tiny), yes=True,
    )  # fmt: skip
    assert options.state is not None
    with Audit(options.state) as audit:
        invite = joins.read_invite(options.invite)
        joins.enter(options, invite, options.state, "cpu", audit, print)
        with pytest.raises(BaseError, match="no path is opened unasked"):
            joins.enter(replace(options, base=None), invite, options.state, "cpu", audit, print)
