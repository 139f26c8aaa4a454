"""Blobs: their digest, and the pieces in which they cross the wire."""

import hashlib
from collections.abc import Iterator

CHUNK = 1 << 20
"""Largest piece of a blob in one message, in bytes."""

MAX_MESSAGE = 4 << 20
"""Largest gRPC message that either end accepts, in bytes."""

MAX_BLOB = 64 << 30
"""Largest blob that an upload may announce, in bytes."""


def digest_of(data: bytes) -> str:
    """The name of a blob: its SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def split(data: bytes, offset: int = 0) -> Iterator[bytes]:
    """Pieces of `data` from `offset` on, each of `CHUNK` bytes or fewer."""
    view = memoryview(data)
    for start in range(offset, len(data), CHUNK):
        yield bytes(view[start : start + CHUNK])
