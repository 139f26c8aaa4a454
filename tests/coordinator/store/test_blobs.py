import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmore.coordinator.store.blobs import Store
from fedmore.experts.errors import RegistryError, StoreError
from fedmore.protos.system.files import write_durably


@given(st.binary(max_size=4096))
def test_what_is_put_comes_back(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "blobs")
        digest = store.put(data)
        assert digest == hashlib.sha256(data).hexdigest()
        assert store.put(data) == digest
        assert store.has(digest)
        assert store.get(digest) == data


@given(st.text(max_size=80))
def test_no_text_leads_out_of_the_store(text: str) -> None:
    store = Store(Path("blobs"))
    try:
        path = store.path(text)
    except RegistryError:
        return
    assert path.parent.parent == Path("blobs")


def test_a_missing_blob_is_named(tmp_path: Path) -> None:
    digest = "0" * 64
    assert not Store(tmp_path).has(digest)
    with pytest.raises(RegistryError, match=digest):
        Store(tmp_path).get(digest)


def test_a_corrupt_blob_is_refused_and_can_be_written_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.put(b"expert")
    store.path(digest).write_bytes(b"expart")
    with pytest.raises(RegistryError, match="corrupt"):
        store.get(digest)
    store.put(b"expert")
    assert store.get(digest) == b"expert"


def test_many_writers_of_one_blob_leave_one_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(store.put, [b"x" * 100_000] * 32))
    assert len(digests) == 1
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [store.path(digests.pop())]


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_durably(tmp_path / "file", b"old")

    def disk_full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_durably(tmp_path / "file", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_store_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file, not a folder")
    with pytest.raises(RegistryError, match="blobs"):
        Store(tmp_path / "blobs").put(b"x")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "blobs")


def test_a_corrupt_blob_is_written_again(store):
    digest = store.put(b"whole")
    for damaged in (b"whol", b"other"):
        store.path(digest).write_bytes(damaged)
        with pytest.raises(StoreError, match="corrupt"):
            store.check(digest)
        assert store.put(b"whole") == digest
        store.check(digest)


def test_a_file_is_taken_as_it_is(store, tmp_path):
    whole = tmp_path / "incoming"
    whole.write_bytes(b"x" * 3_000_000)
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    store.put_file(whole, digest)
    assert whole.exists()
    store.path(digest).write_bytes(b"damaged")
    store.put_file(whole, digest)
    store.check(digest)
    store.delete(digest)
    store.adopt(whole, digest)
    assert not whole.exists()
    assert store.digests() == {digest}
    store.put_file(store.path(digest), digest)
    assert len(store.get(digest)) == 3_000_000


def test_a_copy_that_is_not_what_it_says_is_noticed(store, tmp_path):
    (tmp_path / "file").write_bytes(b"this")
    with pytest.raises(StoreError, match="corrupt"):
        store.put_file(tmp_path / "file", hashlib.sha256(b"that").hexdigest())


def test_only_blobs_are_listed_and_what_is_deleted_is_gone(store):
    digest = store.put(b"x")
    (store.root / "incoming").mkdir()
    (store.root / "incoming" / ("a" * 64)).touch()
    (store.root / digest[:2] / ".tmp-1").touch()
    assert store.digests() == {digest}
    store.delete(digest)
    store.delete(digest)
    assert store.digests() == set()
    with pytest.raises(RegistryError, match="no such blob"):
        store.get(digest)
