"""Arrays in files: what they hold, what they cost, and how they cross the wire."""

import copy
import os
import tracemalloc

import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from fedmore.experts.errors import StoreError, WireError
from fedmore.protos.wire import records
from fedmore.protos.wire.blobs import CHUNK, digest_of, split
from fedmore.protos.wire.payloads import digest_of_payload, payload_of, size_of
from fedmore.protos.wire.records import INLINE_ARRAY, StoredArray, dumps, loads, pack, unpack

DATA = os.urandom(INLINE_ARRAY + 5)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    return path


def stored(path, digest=""):
    return StoredArray("u1", (len(DATA),), "raw", path, digest)


def content_of(array):
    arrays = ArrayRecord()
    arrays["w"] = array
    return RecordDict({"arrays": arrays})


def test_it_is_the_array_that_its_file_holds(path):
    plain, lazy = Array("u1", (len(DATA),), "raw", DATA), stored(path)
    assert lazy == plain
    assert plain == lazy
    assert lazy.data == DATA
    assert copy.deepcopy(lazy) == plain
    assert lazy != Array("u1", (len(DATA),), "other", DATA)
    assert str(path) in repr(lazy)
    assert content_of(lazy) == content_of(plain)


def test_setting_its_data_makes_it_an_ordinary_array(path):
    lazy = stored(path, digest_of(DATA))
    lazy.data = b"other"
    path.unlink()
    assert lazy.data == b"other"
    assert payload_of(lazy) == b"other"
    assert "5 bytes" in repr(lazy)


def test_a_file_that_is_gone_or_damaged_is_a_wire_error(path):
    whole, unnamed = stored(path, digest_of(DATA)), stored(path)
    path.write_bytes(b"x" + DATA[1:])
    with pytest.raises(StoreError, match="another digest"):
        _ = whole.data
    path.unlink()
    for use in (lambda: whole.data, lambda: pack(content_of(unnamed)), lambda: size_of(path)):
        with pytest.raises(StoreError, match="cannot be read"):
            use()
    with pytest.raises(StoreError, match="cannot be read"):
        digest_of_payload(path)


def test_it_is_packed_as_a_path_and_unpacked_as_one(path):
    packed = pack(content_of(stored(path)))
    assert packed.blobs == {digest_of(DATA): path}
    assert packed.size == packed.content.ByteSize() + len(DATA)
    back = unpack(packed.content, lambda digest, _: packed.blobs[digest])["arrays"]["w"]
    assert isinstance(back, StoredArray)
    assert back.digest == digest_of(DATA)
    assert back == stored(path)


def test_a_small_one_goes_inline(path):
    path.write_bytes(b"small")
    packed = pack(content_of(stored(path)))
    assert packed.blobs == {}
    assert unpack(packed.content, None)["arrays"]["w"].data == b"small"


def test_a_known_digest_is_not_computed_again(path, monkeypatch):
    monkeypatch.setattr(records, "digest_of_payload", None)
    assert list(pack(content_of(stored(path, "f" * 64))).blobs) == ["f" * 64]


def test_it_is_written_whole_where_there_are_no_blobs(path):
    array = loads(dumps(content_of(stored(path))))["arrays"]["w"]
    assert type(array) is Array
    assert array.data == DATA


def test_a_blob_of_another_size_than_announced_is_refused(path):
    packed = pack(content_of(stored(path)))
    path.write_bytes(DATA + b"more")
    with pytest.raises(WireError, match="announce"):
        unpack(packed.content, lambda digest, _: path)


def test_a_content_too_large_for_memory_is_refused_at_both_ends(monkeypatch):
    many = ArrayRecord(
        {str(i): Array("u1", (INLINE_ARRAY,), "raw", bytes(65536)) for i in range(40)}
    )
    packed = pack(RecordDict({"a": many}))
    monkeypatch.setattr(records, "MAX_CONTENT", 2 << 20)
    with pytest.raises(WireError, match="put small arrays together"):
        pack(RecordDict({"a": many}))
    with pytest.raises(WireError, match="put small arrays together"):
        unpack(packed.content, None)


def test_a_large_file_is_named_and_split_without_being_held(tmp_path):
    path, size = tmp_path / "big", 64 << 20
    with path.open("wb") as file:
        file.truncate(size)
    tracemalloc.start()
    try:
        packed = pack(content_of(StoredArray("u1", (size,), "raw", path)))
        assert sum(map(len, split(path, CHUNK))) == size - CHUNK
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert packed.size > size


@pytest.mark.parametrize("offset", [0, 1, CHUNK, CHUNK + 7])
def test_a_file_and_its_bytes_split_alike(tmp_path, offset):
    data, path = os.urandom(2 * CHUNK + 3), tmp_path / "blob"
    path.write_bytes(data)
    assert list(split(path, offset)) == list(split(data, offset))
