"""Blobs into files: resumed, checked, and deleted when no task needs them."""

import hashlib
import os
import threading
from collections import namedtuple

import pytest

from fedmore.client.session.downloads import TRIES, Downloads
from fedmore.client.transport.retry import Backoff
from fedmore.experts.errors import StoreError, TransportError, WireError

DATA = os.urandom(1000)
DIGEST = hashlib.sha256(DATA).hexdigest()


class Link:
    """Gives `data` in pieces, and loses the connection after as many bytes as it is told."""

    def __init__(self, data=DATA):
        self.data, self.cuts, self.offsets = data, [], []

    def download(self, digest, offset):
        assert digest == DIGEST
        self.offsets.append(offset)
        end = self.cuts.pop(0) if self.cuts else len(self.data)
        for at in range(offset, end, 100):
            yield self.data[at : min(at + 100, end)]
        if end < len(self.data):
            raise TransportError("lost")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(Backoff, "FIRST_S", 0.001)
    monkeypatch.setattr(Backoff, "LARGEST_S", 0.001)


def downloads(folder, link, patience_s=5.0):
    return Downloads(folder, link, patience_s, threading.Event())


def fetch(made, check=lambda: None):
    return made.fetch(DIGEST, len(DATA), check)


def test_it_resumes_where_the_connection_was_lost(tmp_path):
    link = Link()
    link.cuts = [250, 300]
    assert fetch(downloads(tmp_path, link)).read_bytes() == DATA
    assert link.offsets == [0, 250, 300]


def test_it_resumes_where_an_earlier_process_was(tmp_path):
    link = Link()
    link.cuts = [450]
    with pytest.raises(TransportError):
        fetch(downloads(tmp_path, link, patience_s=0.0))
    link = Link()
    again = downloads(tmp_path, link)
    assert fetch(again).read_bytes() == DATA
    assert link.offsets == [450]
    assert fetch(again).read_bytes() == DATA
    assert len(link.offsets) == 1, "what is there is not fetched again"


def test_patience_counts_from_the_last_piece(tmp_path, monkeypatch):
    link = Link()
    link.cuts = list(range(100, 1000, 50))
    made = downloads(tmp_path, link, patience_s=0.5)
    now = [0.0]

    def slow():
        now[0] += 0.4

    monkeypatch.setattr(Backoff.__init__, "__defaults__", (lambda: now[0], lambda: 0.0))
    assert fetch(made, check=slow).read_bytes() == DATA


@pytest.mark.parametrize("left", [b"x" * 400, b"x" * 5000])
def test_a_damaged_beginning_is_fetched_again_from_nothing(tmp_path, left):
    (tmp_path / f"{DIGEST}.part").write_bytes(left)
    link = Link()
    assert fetch(downloads(tmp_path, link)).read_bytes() == DATA
    assert link.offsets[-1] == 0


@pytest.mark.parametrize("data", [DATA[:-1] + b"?", DATA[:-1], DATA + b"more"])
def test_what_is_not_as_announced_is_refused_in_the_end_and_leaves_nothing(tmp_path, data):
    link = Link(data)
    with pytest.raises(WireError, match="as announced"):
        fetch(downloads(tmp_path, link))
    assert len(link.offsets) == TRIES
    assert list(tmp_path.iterdir()) == []


def test_the_last_try_counts_too(tmp_path):
    class Mending(Link):
        def download(self, digest, offset):
            self.data = DATA if len(self.offsets) == TRIES - 1 else DATA[::-1]
            return super().download(digest, offset)

    assert fetch(downloads(tmp_path, Mending())).read_bytes() == DATA


@pytest.mark.parametrize("digest", ["../../etc/passwd", "a" * 63, "A" * 64, ""])
def test_what_is_no_digest_names_no_file(tmp_path, digest):
    with pytest.raises(WireError, match="not a SHA-256"):
        downloads(tmp_path, Link()).fetch(digest, 1, lambda: None)


def test_a_full_disk_is_said_before_anything_is_fetched(tmp_path, monkeypatch):
    link = Link()
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(999))
    with pytest.raises(StoreError, match="1000 bytes, and 999 are free"):
        fetch(downloads(tmp_path, link))
    assert link.offsets == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        fetch(downloads(tmp_path / "file", Link()))


def test_it_stops_when_it_is_no_longer_wanted(tmp_path):
    def check():
        raise KeyError("cancelled")

    with pytest.raises(KeyError):
        fetch(downloads(tmp_path, Link()), check=check)


def test_only_what_a_task_in_hand_needs_is_kept(tmp_path):
    made = downloads(tmp_path, Link())
    made.keep([])
    fetch(made)
    (tmp_path / ("b" * 64)).write_bytes(b"old")
    (tmp_path / f"{'c' * 64}.part").write_bytes(b"old")
    made.keep({DIGEST})
    assert [path.name for path in tmp_path.iterdir()] == [DIGEST]
    made.keep([])
    assert list(tmp_path.iterdir()) == []
