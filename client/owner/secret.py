"""The owner's secret: what the owner draws from its text is drawn with it.

Windows, their order, the sample for the embedding and its noise depend on the plan's seed, which
the coordinator knows, and on this secret, which never leaves the machine. Two clients with equal
secrets and seeds draw alike, which is how simulations stay comparable.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from fedmore.experts.errors import ConfigError
from fedmore.protos.system.files import PRIVATE, write_private

FILE = "owner.secret"
BYTES = 32


def owner_secret(state: Path) -> bytes:
    """The secret in a client's state folder, made if there is none; raises `ConfigError`."""
    path = state / FILE
    if not path.exists():
        keep_secret(state, secrets.token_bytes(BYTES))
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); restore it") from error
    if len(secret) != BYTES:
        raise ConfigError(f"{path}: holds {len(secret)} bytes, not {BYTES}; restore it")
    return secret


def keep_secret(state: Path, secret: bytes) -> None:
    """Write a secret to a state folder."""
    write_private(state / FILE, secret.hex() + "\n")
    (state / FILE).chmod(PRIVATE)


def secret_of(text: str) -> bytes:
    """A secret made from a text, for simulations: equal texts give equal secrets."""
    return hashlib.sha256(text.encode()).digest()


def derive(secret: bytes, *parts: object) -> int:
    """A seed below 2^63 that depends on the secret and on every one of `parts`."""
    text = "\n".join(map(str, parts)).encode()
    return int.from_bytes(hmac.digest(secret, text, "sha256")[:8], "little") >> 1
