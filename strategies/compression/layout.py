"""Bytes of plain tensors: contiguous, flat, little-endian."""

import numpy as np
import torch
from torch import Tensor

from fedmore.experts.errors import WireError


def raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor on the CPU, in C order."""
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def unraw(data: bytes, dtype: torch.dtype) -> Tensor:
    """The inverse of `raw`, 1-D."""
    if not data:  # of numpy's empty arrays torch cannot change the dtype
        return torch.empty(0, dtype=dtype)
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(dtype)


def flat(tag: str, tensor: Tensor) -> Tensor:
    """A tensor as float32 [count] on the CPU; raises `ValueError` for NaN or Inf."""
    values = tensor.detach().cpu().float().reshape(-1)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{tag} cannot encode NaN or Inf; the update or its residual is broken")
    return values


def scales(tag: str, data: bytes, dtype: torch.dtype) -> Tensor:
    """Scales of blocks, float32; raises `WireError` unless each is finite and at least 0."""
    found = unraw(data, dtype).float()
    if not bool(torch.isfinite(found).all()):
        raise WireError(f"{tag}: a scale is NaN or Inf, so its block would hold NaN or Inf")
    if bool((found < 0).any()):
        raise WireError(f"{tag}: a scale of {found.min().item():g} is below 0; not made by a codec")
    return found
