"""Finds out in seconds whether the model hub can be reached; its own library tries for minutes."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from fedmore.experts.errors import BaseError

PROBE_S = 3.0
OFFLINE = "HF_HUB_OFFLINE"
PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def connect(host: str, port: int) -> None:
    """Open a connection and close it; raises `OSError` if that fails."""
    socket.create_connection((host, port), PROBE_S).close()


def reach(name: str, connecting: Callable[[str, int], None] = connect) -> None:
    """Prepare to load the base `name`; must be called before any of its files is read.

    If the hub cannot be reached, a base in this machine's cache still loads, offline. Any other
    name raises `BaseError` at once. A folder needs no hub.
    """
    if Path(name).expanduser().is_dir() or os.environ.get(OFFLINE, "0") not in ("", "0"):
        return
    host, port = _door()
    try:
        connecting(host, port)
    except OSError as error:
        go_offline()
        if not cached(name):
            raise BaseError(
                f"base {name!r}: no folder of that name, not in this machine's cache, and {host} "
                f"cannot be reached ({error.strerror or error}); give the path of a copy"
            ) from error


def _door() -> tuple[str, int]:
    """Host and port to connect to: the proxy's if there is one, otherwise the hub's."""
    given = next((found for name in PROXIES if (found := os.environ.get(name))), "")
    if given and "://" not in given:
        given = f"http://{given}"
    url = urlsplit(given or os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    default = 1080 if url.scheme.startswith("socks") else 80 if url.scheme == "http" else 443
    return url.hostname or "", url.port or default


def go_offline() -> None:
    """Make the hub's libraries use only the cache, in this process."""
    os.environ[OFFLINE] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def cached(name: str) -> bool:
    """Whether the model's configuration is in this machine's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError as error:
        raise BaseError(
            f"base {name!r}: neither a directory nor a model on the hub; give a folder's path, or "
            "a name like ORG/MODEL"
        ) from error
