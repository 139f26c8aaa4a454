"""Checks that a loaded base applies each layer to be changed exactly once to every token."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedmore.experts.base.model import Base
from fedmore.experts.errors import BaseError
from fedmore.experts.spec import TargetModule

TOKENS = 3


def check_reached(base: Base, sites: Sequence[TargetModule]) -> None:
    """Run a few tokens through the base; raise `BaseError` if a site does not see all of them.

    If the model skips a layer, or reads its weight in another way, training it would change
    nothing.
    """
    seen: dict[str, int] = {}
    model: Any = base.model
    hooks = [
        model.get_submodule(site.path).register_forward_pre_hook(_count(seen, site.path))
        for site in sites
    ]
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros(1, TOKENS, dtype=torch.long, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    for site in sites:
        if seen.get(site.path) != TOKENS:
            raise BaseError(
                f"base {base.name!r}: {model.config.model_type} does not apply {site.path} once to "
                "every token, so a change of it cannot be trained"
            )


def _count(seen: dict[str, int], path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[path] = seen.get(path, 0) + inputs[0].flatten(0, -2).shape[0]

    return hook
