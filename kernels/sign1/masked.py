"""sign1 without the numbers that both ends know to be zero; it works with any form of the op.

`mask_N` is true for numbers that take part. The stream contains these, one after the other, as if
the others did not exist.
"""

from types import ModuleType

import torch
from torch import Tensor


def encode_with_residual(
    form: ModuleType, change_N: Tensor, residual_N: Tensor, mask_N: Tensor, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Do as the form's function; the new residual has the change's shape and is 0 if masked.

    Raises `ValueError` if a masked number is not zero, because it would be lost silently.
    """
    if bool(torch.any(change_N[~mask_N])) or bool(torch.any(residual_N[~mask_N])):
        raise ValueError("sign1: a masked number is not zero")
    bits, scales, owed = form.encode_with_residual(change_N[mask_N], residual_N[mask_N], block)
    residual = torch.zeros(change_N.shape, dtype=torch.float32, device=change_N.device)
    return bits, scales, residual.masked_scatter_(mask_N, owed)


def decode(form: ModuleType, bits: Tensor, scales: Tensor, mask_N: Tensor, block: int) -> Tensor:
    """Decode to float32 in the mask's shape; masked numbers are 0."""
    sent: Tensor = form.decode(bits, scales, int(mask_N.sum()), block)
    whole = torch.zeros(mask_N.shape, dtype=torch.float32, device=sent.device)
    return whole.masked_scatter_(mask_N, sent)
