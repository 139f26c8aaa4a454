"""Blobs: their digest, and the pieces in which they cross the wire."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20
"""Largest piece of a blob in one message, in bytes."""

MAX_MESSAGE = 4 << 20
"""Largest gRPC message that either end accepts, in bytes."""

MAX_REQUEST = 2 << 20
"""Largest gRPC message that the coordinator accepts: a content inline, or a chunk, and some."""

MAX_BLOB = 64 << 30
"""Largest blob that an upload may announce, in bytes."""


def digest_of(data: bytes) -> str:
    """The name of a blob: its SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def split(payload: bytes | Path, offset: int = 0) -> Iterator[bytes]:
    """Pieces of bytes or of a file from `offset` on, each of `CHUNK` bytes or fewer."""
    if isinstance(payload, Path):
        with payload.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK):
                yield chunk
        return
    view = memoryview(payload)
    for start in range(offset, len(payload), CHUNK):
        yield bytes(view[start : start + CHUNK])
