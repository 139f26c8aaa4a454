"""Picks the form of an op for a device; it never falls back to a slower form in silence."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

from fedmore.kernels.errors import KernelError

# Each op's module by type of device. `lowrank_sum` calls only torch (on an NVIDIA GPU its QR and
# SVD are cuSOLVER's), so one module serves both devices.
FORMS: dict[str, dict[str, str]] = {
    "lora_mix": {"cpu": "cpu", "cuda": "triton"},
    "lowbit": {"cpu": "cpu", "cuda": "triton"},
    "lowrank_sum": {"cpu": "cpu", "cuda": "cpu"},
    "moe_ffn": {"cpu": "cpu", "cuda": "triton"},
    "sign1": {"cpu": "cpu", "cuda": "triton"},
}


def choose(op: str, device: torch.device | str) -> ModuleType:
    """The module that computes `op` on `device`, such as `fedmore.kernels.sign1.cpu`.

    Raises `KernelError` if the op has no form for this device, or Triton is missing.
    """
    kind = torch.device(device).type
    forms = FORMS.get(op)
    if forms is None:
        raise KernelError(f"there is no op {op!r}; there are {', '.join(FORMS)}")
    if kind not in forms:
        raise KernelError(f"{op} has no form for {kind!r} devices; move the tensors to the CPU")
    if forms[kind] == "triton" and find_spec("triton") is None:
        raise KernelError(f"{op} on {kind!r} needs triton; `pip install fedmore[gpu]` brings it")
    return import_module(f"fedmore.kernels.{op}.{forms[kind]}")
