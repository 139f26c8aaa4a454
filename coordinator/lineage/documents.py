"""Signed documents: canonical JSON with the signature of the federation's key.

A document is one line of JSON with sorted keys and no spaces. Other bytes of the same content are
refused, so a document has one digest.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmore.coordinator.pki.signing import fingerprint_of, is_signed
from fedmore.experts.errors import RegistryError

PURPOSE = b"fedmore signed document v1\n"
"""What precedes the signed bytes, so that no signature of another purpose fits."""


def canonical(content: Mapping[str, Any]) -> bytes:
    """The one form of a JSON object that is signed."""
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def signed(content: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """The document with this content."""
    signature = key.sign(PURPOSE + canonical(content))
    by = fingerprint_of(key.public_key())
    return canonical({"content": content, "key": by, "signature": signature.hex()}) + b"\n"


def read_signed(data: bytes, key: Ed25519PublicKey, where: str | Path) -> dict[str, Any]:
    """The content of a document; raises `RegistryError` unless this key has signed it."""
    found = parsed(data, where)
    content: dict[str, Any] = found["content"]
    if found["key"] != fingerprint_of(key):
        raise RegistryError(
            f"{where}: signed by the key {str(found['key'])[:12]} of another federation, not by "
            f"{fingerprint_of(key)[:12]}; do not use it"
        )
    try:
        signature = bytes.fromhex(found["signature"])
    except (TypeError, ValueError):
        signature = b""
    if not is_signed(key, signature, PURPOSE + canonical(content)):
        raise RegistryError(f"{where}: altered, its signature does not fit; do not use it")
    return content


def parsed(data: bytes, where: str | Path) -> dict[str, Any]:
    """A document's content, key and signature, unverified; raises `RegistryError` for others."""
    try:
        found = json.loads(data)
        is_one = found.keys() == {"content", "key", "signature"}
        is_one = is_one and isinstance(found["content"], dict) and canonical(found) + b"\n" == data
    except (ValueError, AttributeError, RecursionError) as error:
        raise RegistryError(f"{where}: no signed document ({error}); restore it") from error
    if not is_one:
        raise RegistryError(f"{where}: not a signed document in its one form; restore it")
    return dict(found)
