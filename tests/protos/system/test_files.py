"""Durable and private: what is synced to the disk, and who may read it."""

import os
import stat
from pathlib import Path

import pytest

from fedmore.protos.system.files import make_folder, private_folder, write_private, writing


@pytest.fixture
def synced(monkeypatch):
    """The names of what was synced, in order."""
    names, real = [], os.fsync

    def fsync(handle):
        names.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path, synced):
    write_private(tmp_path / "key", "one")
    draft, folder = synced
    assert draft.startswith(".tmp-")
    assert folder == tmp_path.name
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_new_folders_are_synced_into_those_above(tmp_path, synced):
    make_folder(tmp_path / "blobs" / "ab")
    assert synced == [tmp_path.name, "blobs"]
    make_folder(tmp_path / "blobs" / "ab")
    assert len(synced) == 2


def test_what_is_interrupted_leaves_the_old_file(tmp_path):
    write_private(tmp_path / "key", "old")
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "key") as file:
        file.write(bytes([1 // 0]))
    assert (tmp_path / "key").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_all_of_it_is_private_whatever_the_umask(tmp_path, open_umask):
    write_private(tmp_path / "a" / "b" / "key", "x")
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    assert mode(tmp_path / "a" / "b" / "key") == 0o600
    (tmp_path / "a").chmod(0o755)
    private_folder(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o700
