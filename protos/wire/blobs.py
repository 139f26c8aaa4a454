"""Blobs: their digests, and their chunks on the wire."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20
"""Largest chunk of a blob in one message, in bytes."""

MAX_MESSAGE = 4 << 20
"""Largest gRPC message that either end accepts, in bytes."""

MAX_REQUEST = 2 << 20
"""Largest gRPC message that the coordinator accepts, in bytes: inline content or a chunk."""

MAX_BLOB = 64 << 30
"""Largest blob that an upload may announce, in bytes."""


def digest_of(data: bytes) -> str:
    """The name of a blob: its SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def split(payload: bytes | Path, offset: int = 0) -> Iterator[bytes]:
    """Yield chunks of bytes or of a file from `offset` on, each of at most `CHUNK` bytes."""
    if isinstance(payload, Path):
        with payload.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK):
                yield chunk
        return
    view = memoryview(payload)
    for start in range(offset, len(payload), CHUNK):
        yield bytes(view[start : start + CHUNK])
