"""Bytes of protobuf, counted before they are parsed: what they would become in memory.

A message without fields is two bytes on the wire and more than a hundred in memory, so a limit of
bytes alone is none. `check_parts` walks the wire format along the schema and builds nothing.
"""

from collections.abc import Iterator
from functools import cache
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb

MAX_PARTS = 1 << 20
OBJECT = 4
"""Parts that a message or a text counts for; a number counts for one."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_OBJECTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE)


def check_parts(data: bytes, limit: int = MAX_PARTS) -> None:
    """Raise `WireError` where `data`, a `Records`, has more than `limit` parts.

    Also where it is not protobuf at all, or has more digits, nesting or groups than ours have.
    """
    count = 0
    for cost in _parts(data, 0, len(data), cast("Descriptor", pb.Records.DESCRIPTOR)):
        count += cost
        if count > limit:
            raise WireError(f"a content of more than {limit} parts; put small values together")


def _parts(data: bytes, at: int, end: int, kind: Descriptor) -> Iterator[int]:
    """What each field costs, those of the messages within too."""
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
                raise WireError("records are not a Records message: a field ends after its message")
            yield OBJECT
            if (inner := fields[0].get(number)) is not None:
                yield from _parts(data, at, at + size, inner)
            elif (width := fields[1].get(number)) is not None:
                yield size // width
            at += size
        else:
            raise WireError(f"records are not a Records message: wire type {wire}")


@cache
def _messages(kind: Descriptor) -> dict[int, Descriptor]:
    return {f.number: f.message_type for f in kind.fields if f.message_type is not None}


@cache
def _packed(kind: Descriptor) -> dict[int, int]:
    """Fields of many numbers, and the fewest bytes that one of them has."""
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
    raise WireError("records are not a Records message: a number does not end")
