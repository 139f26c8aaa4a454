"""Payloads in files, so that large arrays take no memory until they are read."""

import hashlib
from pathlib import Path

from flwr.app import Array

from fedmore.experts.errors import StoreError
from fedmore.protos.wire.blobs import digest_of

Payload = bytes | Path
"""The bytes of a blob, in memory or in a file."""


class StoredArray(Array):
    """A Flower Array whose `data` is read from `path` at every access.

    With a `digest`, the bytes are checked against it. Raises `StoreError` if the file is missing or
    damaged. Setting `data` turns it into an ordinary array.
    """

    def __init__(
        self, dtype: str, shape: tuple[int, ...], stype: str, path: Path, digest: str = ""
    ) -> None:
        # `Array.__init__` is not called, because it needs the bytes.
        self.dtype, self.shape, self.stype = dtype, shape, stype
        self.digest = digest
        self._payload: Payload = path

    @property
    def payload(self) -> Payload:
        """The file, or the bytes that replaced it."""
        return self._payload

    @property
    def data(self) -> bytes:
        """The array's bytes."""
        if isinstance(self._payload, bytes):
            return self._payload
        data = read_payload(self._payload)
        if self.digest and digest_of(data) != self.digest:
            raise StoreError(f"{self._payload}: damaged, its content has another digest")
        return data

    @data.setter
    def data(self, data: bytes) -> None:
        self._payload, self.digest = data, ""

    def __eq__(self, other: object) -> bool:
        """Whether the other is an Array with the same bytes, stored or not."""
        if not isinstance(other, Array):
            return NotImplemented
        mine = (self.dtype, self.shape, self.stype)
        return mine == (other.dtype, other.shape, other.stype) and self.data == other.data

    __hash__ = None  # type: ignore[assignment]  # as Array

    def __repr__(self) -> str:
        """The place of the data, without the data."""
        what = self._payload if isinstance(self._payload, Path) else f"{len(self._payload)} bytes"
        return f"StoredArray({self.dtype!r}, {self.shape}, {self.stype!r}, {what})"


def payload_of(array: Array) -> Payload:
    """An array's bytes or the file with them."""
    return array.payload if isinstance(array, StoredArray) else array.data


def size_of(payload: Payload) -> int:
    """Size of a payload in bytes; raises `StoreError` if its file is missing."""
    if isinstance(payload, bytes):
        return len(payload)
    try:
        return payload.stat().st_size
    except OSError as error:
        raise StoreError(f"{payload}: cannot be read: {error}") from error


def read_payload(payload: Payload) -> bytes:
    """Read a payload into memory; raises `StoreError` if its file cannot be read."""
    if isinstance(payload, bytes):
        return payload
    try:
        return payload.read_bytes()
    except OSError as error:
        raise StoreError(f"{payload}: cannot be read: {error}") from error


def digest_of_payload(payload: Payload) -> str:
    """Digest of a payload; a file is read in pieces."""
    if isinstance(payload, bytes):
        return digest_of(payload)
    try:
        with payload.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{payload}: cannot be read: {error}") from error
