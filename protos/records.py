"""Flower's RecordDict to and from bytes: exact, and in insertion order.

`pack` keeps what is sent inline small: an array above `INLINE_ARRAY` becomes a blob, and so does
the whole content when what is left is above `INLINE_CONTENT`. Whatever cannot be encoded or
decoded raises `WireError`. An empty list has no element type, in Flower as here.
"""

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from google.protobuf.message import DecodeError, EncodeError

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.chunks import digest_of

INLINE_ARRAY = 64 << 10
INLINE_CONTENT = 1 << 20

Fetch = Callable[[str, int], bytes]
"""Digest and size of a blob to its bytes, already checked against the digest."""

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
    """A content ready to send: what goes inline, and the blobs that it names."""

    content: pb.Content
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Payload bytes: inline content and blobs, each blob once."""
        return self.content.ByteSize() + sum(map(len, self.blobs.values()))


def pack(records: RecordDict) -> Packed:
    """Encode `records`, moving what is large into blobs."""
    blobs: dict[str, bytes] = {}
    with _wire_errors("cannot be encoded"):
        message = _encode(records, blobs)
        if message.ByteSize() <= INLINE_CONTENT:
            return Packed(pb.Content(records=message), blobs)
        data = message.SerializeToString()
    return Packed(pb.Content(blob=_as_blob(data, blobs)), blobs)


def unpack(content: pb.Content, fetch: Fetch) -> RecordDict:
    """Decode a content, calling `fetch` for every blob that it names."""
    where = content.WhichOneof("where")
    if where is None:
        raise WireError("a content with neither records nor a blob")
    if where == "records":
        return _decode(content.records, fetch)
    return loads(fetch(content.blob.digest, content.blob.size), fetch)


def dumps(records: RecordDict) -> bytes:
    """`records` as one string of bytes without blobs."""
    with _wire_errors("cannot be encoded"):
        return _encode(records, None).SerializeToString()


def loads(data: bytes, fetch: Fetch | None = None) -> RecordDict:
    """The inverse of `dumps`; without `fetch`, a blob in `data` is a `WireError`."""
    with _wire_errors("are not a Records message"):
        message = pb.Records.FromString(data)
    return _decode(message, fetch or _no_blobs)


def _no_blobs(digest: str, size: int) -> bytes:
    raise WireError(f"records name the blob {digest!r} ({size} bytes), which did not come along")


@contextmanager
def _wire_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (DecodeError, EncodeError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"records {what}: {error}") from error


def _as_blob(data: bytes, blobs: dict[str, bytes]) -> pb.Blob:
    digest = digest_of(data)
    blobs[digest] = data
    return pb.Blob(digest=digest, size=len(data))


def _encode(records: RecordDict, blobs: dict[str, bytes] | None) -> pb.Records:
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


def _encode_array(array: Array, blobs: dict[str, bytes] | None) -> pb.Array:
    message = pb.Array(dtype=array.dtype, shape=array.shape, stype=array.stype)
    if min(array.shape, default=0) < 0:
        raise ValueError(f"an array has the negative size {array.shape}")
    if blobs is not None and len(array.data) > INLINE_ARRAY:
        message.blob.CopyFrom(_as_blob(array.data, blobs))
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
    data = message.data if where == "data" else fetch(message.blob.digest, message.blob.size)
    return Array(message.dtype, tuple(message.shape), message.stype, data)


def _decode_value(entry: pb.ValueEntry) -> object:
    kind = entry.WhichOneof("value")
    if kind is None:
        raise ValueError(f"{entry.key!r} has no value")
    value = getattr(entry, kind)
    return list(value.values) if kind in _LISTS else value


def _refuse_twice(key: str, seen: Container[str]) -> None:
    if key in seen:
        raise ValueError(f"the key {key!r} occurs twice")
