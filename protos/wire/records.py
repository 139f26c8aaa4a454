"""Converts Flower's RecordDict to bytes and back, exactly and in insertion order.

`pack` limits inline data: an array above `INLINE_ARRAY` becomes a blob, and so does the whole
content if the rest is above `INLINE_CONTENT`. A blob may be in a file at either end; its array is
then a `StoredArray`. Values that cannot be encoded or decoded raise `WireError`. An empty list has
no element type, as in Flower.
"""

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from google.protobuf.message import DecodeError, EncodeError

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.parse_budget import check_parts
from fedmore.protos.wire.payloads import (
    Payload,
    StoredArray,
    digest_of_payload,
    payload_of,
    read_payload,
    size_of,
)

__all__ = ["Fetch", "Packed", "Payload", "StoredArray", "dumps", "loads", "pack", "unpack"]

INLINE_ARRAY = 64 << 10
INLINE_CONTENT = 1 << 20
MAX_CONTENT = 64 << 20
"""Largest content without its large arrays, in bytes; both ends hold it in memory."""

OUR_CONTENT = 4 << 20
"""Largest content of our own tasks and replies, in bytes, since their arrays are blobs."""

Fetch = Callable[[str, int], Payload]
"""A function from a blob's digest and size to its bytes or file, checked by digest."""

_KINDS = (
    (bool, "boolean", "booleans"),
    (int, "integer", "integers"),
    (float, "real", "reals"),
    (str, "text", "texts"),
    (bytes, "raw", "raws"),
)
_LISTS = {many for _, _, many in _KINDS}


@dataclass(frozen=True)
class Packed:
    """An encoded content: its inline part and its blobs."""

    content: pb.Content
    blobs: dict[str, Payload] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Payload bytes of the inline content and the blobs, each blob once."""
        return self.content.ByteSize() + sum(map(size_of, self.blobs.values()))


def pack(records: RecordDict) -> Packed:
    """Encode `records`, with large parts as blobs."""
    blobs: dict[str, Payload] = {}
    with _wire_errors("cannot be encoded"):
        message = _encode(records, blobs)
        if message.ByteSize() <= INLINE_CONTENT:
            return Packed(pb.Content(records=message), blobs)
        _refuse_large(message.ByteSize(), MAX_CONTENT)
        data = message.SerializeToString()
        check_parts(data)
    return Packed(pb.Content(blob=_as_blob(data, blobs)), blobs)


def unpack(content: pb.Content, fetch: Fetch, limit: int | None = None) -> RecordDict:
    """Decode a content, calling `fetch` for every blob that it names.

    `limit` is the largest content without its large arrays, in bytes, by default `MAX_CONTENT`.
    """
    where = content.WhichOneof("where")
    if where is None:
        raise WireError("a content with neither records nor a blob")
    limit = MAX_CONTENT if limit is None else limit
    if where == "records":
        if content.records.ByteSize() > INLINE_ARRAY:  # a smaller one cannot take much memory
            check_parts(content.records.SerializeToString())
        return _decode(content.records, fetch)
    _refuse_large(content.blob.size, limit)
    data = read_payload(_fetched(content.blob, fetch))
    check_parts(data)
    return loads(data, fetch)


def dumps(records: RecordDict) -> bytes:
    """Encode `records` as bytes without blobs."""
    with _wire_errors("cannot be encoded"):
        return _encode(records, None).SerializeToString()


def loads(data: bytes, fetch: Fetch | None = None) -> RecordDict:
    """Invert `dumps`; without `fetch`, a blob in `data` raises `WireError`."""
    with _wire_errors("are not a Records message"):
        message = pb.Records.FromString(data)
    return _decode(message, fetch or _no_blobs)


def _refuse_large(size: int, limit: int) -> None:
    if size > limit:
        raise WireError(
            f"a content of {size} bytes without its large arrays is above {limit}; "
            "put small arrays together"
        )


def _no_blobs(digest: str, size: int) -> bytes:
    raise WireError(f"records name the blob {digest!r} ({size} bytes), which did not come along")


@contextmanager
def _wire_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (DecodeError, EncodeError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"records {what}: {error}") from error


def _as_blob(payload: Payload, blobs: dict[str, Payload], digest: str = "") -> pb.Blob:
    digest = digest or digest_of_payload(payload)
    blobs[digest] = payload
    return pb.Blob(digest=digest, size=size_of(payload))


def _encode(records: RecordDict, blobs: dict[str, Payload] | None) -> pb.Records:
    message = pb.Records()
    for key, record in records.items():
        entry = message.entries.add(key=key)
        if isinstance(record, ArrayRecord):
            entry.arrays.SetInParent()
            for name, array in record.items():
                entry.arrays.entries.add(key=name, array=_encode_array(array, blobs))
        else:
            values = entry.metrics if isinstance(record, MetricRecord) else entry.config
            values.SetInParent()
            for name, value in record.items():
                _encode_value(values.entries.add(key=name), value)
    return message


def _encode_array(array: Array, blobs: dict[str, Payload] | None) -> pb.Array:
    message = pb.Array(dtype=array.dtype, shape=array.shape, stype=array.stype)
    if min(array.shape, default=0) < 0:
        raise ValueError(f"an array has the negative size {array.shape}")
    payload = payload_of(array)
    if blobs is not None and size_of(payload) > INLINE_ARRAY:
        digest = array.digest if isinstance(array, StoredArray) else ""
        message.blob.CopyFrom(_as_blob(payload, blobs, digest))
    else:
        message.data = array.data
    return message


def _encode_value(entry: pb.ValueEntry, value: object) -> None:
    if not isinstance(value, list):
        one = next(one for kind, one, _ in _KINDS if isinstance(value, kind))
        setattr(entry, one, value)
        return
    many = next((m for kind, _, m in _KINDS if value and isinstance(value[0], kind)), "integers")
    holder = getattr(entry, many)
    holder.SetInParent()
    holder.values.extend(value)


def _decode(message: pb.Records, fetch: Fetch) -> RecordDict:
    records = RecordDict()
    with _wire_errors("are not valid"):
        for entry in message.entries:
            _refuse_twice(entry.key, records)
            records[entry.key] = _decode_entry(entry, fetch)
    return records


def _decode_entry(entry: pb.Entry, fetch: Fetch) -> ArrayRecord | MetricRecord | ConfigRecord:
    kind = entry.WhichOneof("record")
    if kind == "arrays":
        arrays = ArrayRecord()
        for item in entry.arrays.entries:
            _refuse_twice(item.key, arrays)
            arrays[item.key] = _decode_array(item.array, fetch)
        return arrays
    if kind is None:
        raise ValueError(f"{entry.key!r} holds no record")
    values: Any = MetricRecord() if kind == "metrics" else ConfigRecord()
    for value in getattr(entry, kind).entries:
        _refuse_twice(value.key, values)
        values[value.key] = _decode_value(value)
    return cast("MetricRecord | ConfigRecord", values)


def _decode_array(message: pb.Array, fetch: Fetch) -> Array:
    if min(message.shape, default=0) < 0:
        raise ValueError(f"an array has the negative size {tuple(message.shape)}")
    where = message.WhichOneof("where")
    if where is None:
        raise ValueError("an array has no data")
    payload = message.data if where == "data" else _fetched(message.blob, fetch)
    described = (message.dtype, tuple(message.shape), message.stype)
    if isinstance(payload, bytes):
        return Array(*described, payload)
    return StoredArray(*described, payload, message.blob.digest)


def _fetched(blob: pb.Blob, fetch: Fetch) -> Payload:
    payload = fetch(blob.digest, blob.size)
    if size_of(payload) != blob.size:
        raise WireError(
            f"the blob {blob.digest[:12]}… has {size_of(payload)} bytes, not the {blob.size} "
            "that the records announce"
        )
    return payload


def _decode_value(entry: pb.ValueEntry) -> object:
    kind = entry.WhichOneof("value")
    if kind is None:
        raise ValueError(f"{entry.key!r} has no value")
    value = getattr(entry, kind)
    return list(value.values) if kind in _LISTS else value


def _refuse_twice(key: str, seen: Container[str]) -> None:
    if key in seen:
        raise ValueError(f"the key {key!r} occurs twice")
