"""What this machine has, and which device the training runs on.

Nothing falls back in silence: a GPU that was asked for and is not there is a `DeviceError` that
says what was found.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from fedmore.experts.errors import ConfigError, DeviceError

_CGROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; memory in bytes."""

    index: int
    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Machine:
    """CPU model, usable cores, memory in bytes (a container's limit counts), CUDA devices."""

    cpu: str
    cores: int
    memory: int
    free: int
    gpus: tuple[Gpu, ...] = ()

    def describe(self) -> str:
        """On one line, as an error or the operator shows it."""
        found = f"{self.cpu}, {self.cores} cores, {gib(self.memory)} memory"
        if not self.gpus:
            return f"{found}, no CUDA device"
        return found + "".join(
            f", CUDA device {g.index}: {g.name} with {gib(g.memory)}" for g in self.gpus
        )


def inspect_machine() -> Machine:
    """Look at this machine; imports torch to ask for CUDA devices."""
    total, free = memory()
    return Machine(cpu_model(), cores(), total, free, cuda_devices())


def choose_device(machine: Machine, gpu: int | None = None, cpu: bool = False) -> str:
    """`cpu` or `cuda:N`: what was asked for, or else the first GPU if there is one.

    Raises `DeviceError`, naming what was found, when the GPU is not there.
    """
    if cpu and gpu is not None:
        raise ConfigError("--gpu and --cpu exclude each other; give one of them")
    if cpu or (gpu is None and not machine.gpus):
        return "cpu"
    wanted = machine.gpus[0].index if gpu is None else gpu
    if wanted not in [g.index for g in machine.gpus]:
        raise DeviceError(
            f"--gpu {wanted}: there is no such device here; found: {machine.describe()}. "
            "Use --cpu, or one of the devices found"
        )
    return f"cuda:{wanted}"


def free_memory(machine: Machine, device: str) -> int:
    """Free bytes on `device`."""
    if device == "cpu":
        return machine.free
    return next(g.free for g in machine.gpus if device == f"cuda:{g.index}")


def cuda_devices() -> tuple[Gpu, ...]:
    """The CUDA devices that torch can use; empty with a torch built without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Gpu(index, torch.cuda.get_device_name(index), total, free))
    return tuple(found)


def cpu_model(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as its maker gives it."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory(
    info: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> tuple[int, int]:
    """Total and free bytes, both within the limit of the container we may be in.

    If the system does not say what is free (no /proc), free is the total: an upper bound.
    """
    try:
        lines = [line.split() for line in info.read_text(encoding="ascii").splitlines()]
        table = {fields[0]: int(fields[1]) * 1024 for fields in lines}
        total, free = table["MemTotal:"], table["MemAvailable:"]
    except (OSError, KeyError):
        total = free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit_file, used_file in _CGROUPS:
        limit, used = _number(cgroup / limit_file), _number(cgroup / used_file)
        if limit is not None and limit < total:
            total, free = limit, min(free, max(limit - (used or 0), 0))
    return total, free


def gib(count: int) -> str:
    """Bytes as `3.4 GiB`."""
    return f"{count / 2**30:.1f} GiB"


def _number(file: Path) -> int | None:
    """The number in a cgroup file; none without a limit (`max`) or without the file."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
