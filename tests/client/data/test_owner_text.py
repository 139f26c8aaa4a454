"""The owner's text at `client join`: what is said of it, conversations, and `~` in options."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedmore.client.cli import main
from fedmore.client.data.owner_text import documents_of, look_at
from fedmore.client.joining import join as joins
from fedmore.client.joining.join import JoinOptions
from fedmore.experts.base.model import load_base
from fedmore.experts.errors import DataError
from fedmore.experts.reading.documents import Format
from fedmore.protos.system.files import at_home, local_name

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": TURNS}) + "\n", encoding="utf-8")
    return path


def test_what_was_read_and_left_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / ".hidden.txt").write_text("two", encoding="utf-8")
    said: list[str] = []
    look_at(tmp_path, Format(), said.append)
    assert said == [
        f"{tmp_path}: 1 documents; they stay on this machine",
        "  hidden files and folders left out: 1 (.hidden.txt)",
    ]


def test_conversations_go_through_the_template_of_the_base(
    talk: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(tiny), "float32", "cpu", "none")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    monkeypatch.setattr(base.tokenizer, "chat_template", template)
    documents_of.cache_clear()
    found = documents_of(talk, Format(), str(tiny), "float32", "cpu", "none")
    assert found == ("<user>hi<assistant>hello",)


def test_conversations_for_a_base_without_a_template_are_refused(
    talk: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(tiny), "float32", "cpu", "none")
    monkeypatch.setattr(base.tokenizer, "chat_template", None)
    documents_of.cache_clear()
    look_at(talk, Format(), lambda _: None)  # without a base only the form is looked at
    with pytest.raises(DataError, match=r"talk\.jsonl:1: .*the base has no chat template"):
        documents_of(talk, Format(), str(tiny), "float32", "cpu", "none")


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home(Path("~/m")) == tmp_path / "m"
    assert at_home(None) is None
    assert local_name("~/m") == str(tmp_path / "m")
    assert local_name("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"


def test_join_takes_every_option_about_text_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    seen: list[JoinOptions] = []
    monkeypatch.setattr(joins, "join", lambda options, _say: seen.append(options))
    arguments = [
        "join", "amt.json", "--data=~/texts", "--domain", "legal", "--base=~/m", "--state=~/s",
        "--column", "body", "--encoding", "cp1252", "--address", "hub:9",
    ]  # fmt: skip
    result: Any = CliRunner().invoke(main.app, arguments)
    assert result.exception is None, result.output
    options = seen[0]
    assert (options.data, options.state) == (tmp_path / "texts", tmp_path / "s")
    assert (options.base, options.address) == (str(tmp_path / "m"), "hub:9")
    assert options.form == Format("cp1252", "body")
