"""Which files of a folder are read: links, hidden ones, what programs put there, what is locked."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmore.experts.errors import DataError
from fedmore.experts.reading.documents import read_corpus, read_documents

NOBODY = 65_534


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("kept", encoding="utf-8")
    return folder


PROGRAMS = {
    ".git/notes.md": "hidden files and folders left out: 1 (.git)",
    ".hidden.txt": "hidden files and folders left out: 1 (.hidden.txt)",
    ".ipynb_checkpoints/b.txt": "hidden files and folders left out: 1 (.ipynb_checkpoints)",
    "venv/pyvenv.cfg": "left out as a virtual environment: 1 (venv)",
    "run/checkpoint-100/trainer_state.json": "left out as a checkpoint: 1 (checkpoint-100)",
    "model/model.safetensors": "left out as a checkpoint: 1 (model)",
    "lora/adapter_config.json": "left out as a checkpoint: 1 (lora)",
    "cache/CACHEDIR.TAG": "left out as a cache: 1 (cache)",
    "node_modules/x/README.txt": "left out as a program's own files: 1 (node_modules)",
    "report.docx": "files of other kinds left out: 1 (report.docx)",
}


@pytest.mark.parametrize("path", PROGRAMS)
def test_what_no_owner_wrote_is_left_out_and_noted(texts, path):
    place = texts / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("not text", encoding="utf-8")
    if place.parent != texts:
        (place.parent / "README.md").write_text("a library's words", encoding="utf-8")
    corpus = read_corpus(texts)
    assert corpus.documents == ["kept"]
    assert corpus.notes == (PROGRAMS[path],)


def test_the_folder_itself_may_be_hidden_or_anything(tmp_path):
    folder = tmp_path / ".corpus"
    folder.mkdir()
    (folder / "pyvenv.cfg").write_text("", encoding="utf-8")
    (folder / "a.txt").write_text("kept", encoding="utf-8")
    assert read_documents(folder) == ["kept"]


def test_linked_folders_and_files_are_followed(texts, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.txt").write_text("linked folder", encoding="utf-8")
    (tmp_path / "c.txt").write_text("linked file", encoding="utf-8")
    (texts / "sub").symlink_to(other)
    (texts / "z.txt").symlink_to(tmp_path / "c.txt")
    assert read_documents(texts) == ["kept", "linked folder", "linked file"]


@pytest.mark.parametrize("target", [".", "..", "sub"])
def test_a_loop_of_links_ends(texts, target):
    (texts / "sub").mkdir()
    (texts / "sub" / "b.txt").write_text("below", encoding="utf-8")
    (texts / "again").symlink_to(target)
    corpus = read_corpus(texts)
    assert sorted(corpus.documents) == ["below", "kept"]
    assert any("linked a second time" in note for note in corpus.notes) or target == ".."


@pytest.mark.parametrize("target", ["nowhere.txt", "self.txt"])
def test_a_link_that_leads_nowhere_is_named(texts, target):
    (texts / "self.txt").symlink_to(target)
    with pytest.raises(DataError, match=r"self\.txt: a link that leads nowhere"):
        read_documents(texts)


def test_a_pipe_is_not_waited_for(texts):
    os.mkfifo(texts / "pipe.txt")
    assert stat.S_ISFIFO((texts / "pipe.txt").stat().st_mode)
    assert read_corpus(texts).notes == ("left out as no regular files: 1 (pipe.txt)",)
    with pytest.raises(DataError, match=r"pipe\.txt: neither a file nor a folder"):
        read_documents(texts / "pipe.txt")


@pytest.fixture
def anybody() -> Iterator[Path]:
    """A folder to whose files' modes even a test that is run by root is held."""
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name), os.geteuid() == 0
        folder.chmod(0o755)
        (folder / "sub").mkdir()
        (folder / "sub").chmod(0o755)  # whatever the umask is
        for path, text in ((folder / "a.txt", "kept"), (folder / "sub" / "b.txt", "locked")):
            path.write_text(text, encoding="utf-8")
            path.chmod(0o644)
        if root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            (folder / "sub").chmod(0o755)


@pytest.mark.parametrize(
    ("path", "mode", "says"),
    [
        ("sub", 0o000, r"sub: the folder cannot be listed: Permission denied; allow it"),
        ("sub", 0o444, r"b\.txt: cannot be read: Permission denied"),
        ("sub/b.txt", 0o000, r"b\.txt: cannot be read: Permission denied"),
    ],
)
def test_what_may_not_be_read_is_an_error_and_not_skipped(anybody, path, mode, says):
    root = os.geteuid()
    os.seteuid(0) if os.getuid() == 0 else None
    (anybody / path).chmod(mode)
    os.seteuid(root)
    with pytest.raises(DataError, match=says):
        read_documents(anybody)
