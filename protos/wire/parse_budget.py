"""Limits the memory of protobuf messages before they are parsed.

An empty message is two bytes on the wire and more than a hundred in memory, so a limit of bytes is
not enough. `check_parts` walks the wire format along the schema and builds nothing. The coordinator
reads every request by `parse_request`.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.blobs import CHUNK, MAX_REQUEST

M = TypeVar("M", bound=Message)

MAX_PARTS = 1 << 20
OBJECT = 4
"""Number of parts of a message or a text; a number counts as one part."""

PART_BYTES = 32
"""Estimated bytes of memory per part."""

SMALL = 64 << 10, 1_000
"""Limits, in bytes and parts, of a request without a row in `FORMS`."""

FORMS: dict[type[Message], dict[str, tuple[int, int]]] = {
    pb.ClientEvent: {
        "hello": (4 << 10, 100),
        "heartbeat": (64 << 10, 1_000 * OBJECT),  # our client has 48 tasks in hand at most
        "progress": (4 << 10, 100),
        "reply": (MAX_REQUEST, 1 << 18),
        "leave": (64 << 10, 100),
    },
    pb.UploadRequest: {"start": (4 << 10, 100), "chunk": (CHUNK + 64, 2 * OBJECT)},
}
"""Limits, in bytes and parts, of each form of a stream's messages."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_OBJECTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE)


def parse_request(data: bytes, kind: type[M]) -> tuple[M, int]:
    """Parse `data` as `kind`; returns the message and its estimated bytes of memory.

    Raises `WireError` before anything is built if `data` has more bytes or parts than allowed.
    """
    form, (most, parts) = _form_of(data, kind)
    what = f"{kind.DESCRIPTOR.name} {form}".strip()
    if len(data) > most:
        raise WireError(f"a {what} of {len(data)} bytes is above the limit of {most}")
    count = _count(data, parts, _descriptor(kind), f"a {what} of more than {parts} parts")
    try:
        return kind.FromString(data), len(data) + PART_BYTES * count
    except DecodeError as error:
        raise WireError(f"not a {kind.DESCRIPTOR.name} message: {error}") from error


def check_parts(data: bytes, limit: int = MAX_PARTS) -> None:
    """Raise `WireError` if `data`, a `Records`, has more than `limit` parts.

    It also raises for data that is not protobuf, or has longer numbers, deeper nesting or groups.
    """
    many = f"a content of more than {limit} parts; put small values together"
    _count(data, limit, _descriptor(pb.Records), many)


def _count(data: bytes, limit: int, kind: Descriptor, many: str) -> int:
    count = 0
    try:
        for cost in _parts(data, 0, len(data), kind):
            count += cost
            if count > limit:
                raise WireError(many)
    except ValueError as error:
        raise WireError(f"not a {kind.name} message: {error}") from error
    return count


def _form_of(data: bytes, kind: type[Message]) -> tuple[str, tuple[int, int]]:
    """The name of the only field in `data`, and its limits."""
    forms = FORMS.get(kind)
    if forms is None or not data:
        return "", SMALL
    descriptor = _descriptor(kind)
    try:
        tag, at = _varint(data, 0, len(data))
        field = descriptor.fields_by_number.get(tag >> 3)
        if field is None or tag & 7 != _BYTES:
            raise ValueError("its field is not one of this version's")
        size, at = _varint(data, at, len(data))
        if at + size != len(data):
            raise ValueError("it has to say one thing")
    except ValueError as error:
        raise WireError(f"not a {descriptor.name} message: {error}") from error
    return field.name, forms[field.name]


def _parts(data: bytes, at: int, end: int, kind: Descriptor) -> Iterator[int]:
    """Yield the parts of each field, including those of nested messages."""
    fields = _messages(kind), _packed(kind)
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            at = _varint(data, at, end)[1]
            yield 1
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
            yield 1
        elif wire == _BYTES:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise ValueError("a field ends after its message")
            yield OBJECT
            if (inner := fields[0].get(number)) is not None:
                yield from _parts(data, at, at + size, inner)
            elif (width := fields[1].get(number)) is not None:
                yield size // width
            at += size
        else:
            raise ValueError(f"wire type {wire}")


def _descriptor(kind: type[Message]) -> Descriptor:
    return cast("Descriptor", cast("Any", kind).DESCRIPTOR)


@cache
def _messages(kind: Descriptor) -> dict[int, Descriptor]:
    return {f.number: f.message_type for f in kind.fields if f.message_type is not None}


@cache
def _packed(kind: Descriptor) -> dict[int, int]:
    """Packed fields, and the fewest bytes of one of their numbers."""
    return {
        field.number: 8 if field.type == FieldDescriptor.TYPE_DOUBLE else 1
        for field in kind.fields
        if field.type not in _OBJECTS
    }


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number does not end")
