"""Describes the machine of a measurement."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Machine = dict[str, str]

PACKAGES = ("fedmore", "torch", "numpy", "numba", "triton", "peft")


def machine() -> Machine:
    """Processor, number of threads, GPU, operating system and versions of packages."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    found = {
        "processor": _processor(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "gpu": gpu,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
    return found | {name: _version(name) for name in PACKAGES}


def _processor() -> str:
    """The processor's model; `platform.processor` is empty on most Linux systems."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
