"""bitsandbytes, imported so that it computes alike everywhere and fetches nothing.

With AVX-512 BF16 its import asks the package `kernels` to fetch code from the hub, and says so on
the terminal if it cannot. Here that package is out of reach while the import goes on.
"""

import logging
import sys
from types import ModuleType
from typing import Any


def bitsandbytes() -> ModuleType:
    """The module; imported by the first call, which takes seconds."""
    if "bitsandbytes" not in sys.modules:
        _import_alone()
    return sys.modules["bitsandbytes"]


def _import_alone() -> None:
    modules: dict[str, Any] = sys.modules
    said, known = logging.getLogger("bitsandbytes"), modules.get("kernels")
    level = said.level
    modules["kernels"] = None  # an import of it fails
    said.setLevel(logging.ERROR)
    try:
        import bitsandbytes.functional  # noqa: F401
    finally:
        said.setLevel(level)
        del modules["kernels"]
        if known is not None:
            modules["kernels"] = known
