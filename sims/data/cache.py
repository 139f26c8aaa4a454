"""The cache for fetched packages, clean text and converted models, outside the repository."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """`FEDMORE_CACHE`, or `fedmore` under the user's cache folder."""
    chosen = os.environ.get("FEDMORE_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("fedmore")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `target` in one step, or is removed after an error.

    A reader sees the old folder, none, or the complete new one, but never a half-written one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    fresh.chmod(0o755)
    try:
        yield fresh
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
