"""Imports bitsandbytes so that it computes alike on every machine and downloads nothing.

On a CPU with AVX-512 BF16, its import asks the package `kernels` to download code from the hub,
and prints a warning if that fails. Here that package is hidden during the import.
"""

import logging
import sys
from types import ModuleType
from typing import Any


def bitsandbytes() -> ModuleType:
    """Return the module; the first call imports it, which takes seconds."""
    if "bitsandbytes" not in sys.modules:
        _import_alone()
    return sys.modules["bitsandbytes"]


def _import_alone() -> None:
    modules: dict[str, Any] = sys.modules
    said, known = logging.getLogger("bitsandbytes"), modules.get("kernels")
    level = said.level
    modules["kernels"] = None  # makes `import kernels` fail
    said.setLevel(logging.ERROR)
    try:
        import bitsandbytes.functional  # noqa: F401
    finally:
        said.setLevel(level)
        del modules["kernels"]
        if known is not None:
            modules["kernels"] = known
