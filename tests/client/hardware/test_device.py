from pathlib import Path

import pytest

from fedmore.client.hardware import device as devices
from fedmore.client.hardware.device import Gpu, Machine, choose_device, free_memory, memory
from fedmore.experts.errors import ConfigError, DeviceError

GIB = 2**30
CPU_ONLY = Machine("Fast CPU 9000", 2, 8 * GIB, 5 * GIB)
WITH_GPU = Machine("Fast CPU 9000", 2, 8 * GIB, 5 * GIB, (Gpu(1, "Big GPU", 80 * GIB, 70 * GIB),))


def test_the_gpu_is_used_where_there_is_one() -> None:
    assert choose_device(CPU_ONLY) == "cpu"
    assert choose_device(WITH_GPU) == "cuda:1"
    assert choose_device(WITH_GPU, cpu=True) == "cpu"
    assert choose_device(WITH_GPU, gpu=1) == "cuda:1"


def test_a_missing_gpu_is_an_error_that_names_what_was_found() -> None:
    with pytest.raises(DeviceError, match=r"--gpu 0.*Fast CPU 9000, 2 cores.*no CUDA device"):
        choose_device(CPU_ONLY, gpu=0)
    with pytest.raises(DeviceError, match=r"--gpu 0.*CUDA device 1: Big GPU with 80\.0 GiB"):
        choose_device(WITH_GPU, gpu=0)


def test_gpu_and_cpu_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--gpu and --cpu"):
        choose_device(WITH_GPU, gpu=1, cpu=True)


def test_free_memory_is_the_devices() -> None:
    assert free_memory(WITH_GPU, "cpu") == 5 * GIB
    assert free_memory(WITH_GPU, "cuda:1") == 70 * GIB


def files(folder: Path, limit: str | None, used: int = 0) -> tuple[Path, Path]:
    info = folder / "meminfo"
    info.write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 5242880 kB\n")
    if limit is not None:
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(f"{used}\n")
    return info, folder


def test_memory_is_what_the_system_says(tmp_path: Path) -> None:
    assert memory(*files(tmp_path, None)) == (8 * GIB, 5 * GIB)
    assert memory(*files(tmp_path, "max")) == (8 * GIB, 5 * GIB)


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert memory(*files(tmp_path, str(2 * GIB), GIB // 2)) == (2 * GIB, 3 * GIB // 2)
    assert memory(*files(tmp_path, str(2 * GIB), 3 * GIB)) == (2 * GIB, 0)


def test_without_proc_free_is_the_total(tmp_path: Path) -> None:
    total, free = memory(tmp_path / "none", tmp_path)
    assert total == free > 0


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Fast CPU 9000\n")
    assert devices.cpu_model(info) == "Fast CPU 9000"
    assert devices.cpu_model(tmp_path / "none")
    assert devices.cores() >= 1
