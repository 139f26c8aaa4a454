"""AdamW of one training, at full precision or with moments of 8 bits, and its state.

`adamw8bit` is that of bitsandbytes (arXiv 2110.02861): a number's two moments take 2 bytes instead
of 8. Full-size experts have so many numbers that this decides whether they fit.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedmore.client.owner.memory_saving import MemorySaving
from fedmore.kernels.bitsandbytes_library import bitsandbytes

TABLES = "qmap"
BETAS = (0.9, 0.95)


def make_optimizer(parameters: Iterable[nn.Parameter], saving: MemorySaving) -> Any:
    """AdamW over the parameters, without weight decay."""
    if saving.optimizer == "adamw8bit":
        kind: Any = bitsandbytes().optim.AdamW8bit
        return kind(parameters, betas=BETAS, weight_decay=0.0)
    return torch.optim.AdamW(parameters, betas=BETAS, weight_decay=0.0)


def moments_of(optimizer: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    """All tensors of a parameter's state, on the CPU and in their own dtypes.

    All parameters share the tables of 8-bit moments. They are copied, as a file of tensors needs.
    """
    state = optimizer.state[parameter]
    return {
        name: value.cpu().clone() if name.startswith(TABLES) else value.cpu()
        for name, value in state.items()
        if name != "step"
    }


def restore_moments(
    optimizer: Any, parameter: nn.Parameter, moments: Mapping[str, Tensor], step: int
) -> None:
    """Put back what `moments_of` gave after `step` steps."""
    there = {name: moment.to(parameter.device) for name, moment in moments.items()}
    is_torch = isinstance(optimizer, torch.optim.AdamW)
    done: Tensor | int = torch.tensor(float(step)) if is_torch else step
    optimizer.state[parameter] = {"step": done, **there}
