"""Whether training could have made the router that a task brings.

A router with large numbers decides everything from one direction of the input: only tokens that
lie across it then move the router, and the answer names them. An honest router begins as every
client can make it for itself, and a round moves a number of it by little more than the learning
rate a step. What is further away was chosen, not trained.
"""

import torch
from torch import Tensor

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import EgressError
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.features import SMALLEST
from fedmore.experts.routers.serialization import make_router
from fedmore.strategies.router_stage.tasks import RouteTask


def check_reach(task: RouteTask, router: Router, rules: OwnerPolicy) -> None:
    """Raise `EgressError` for a router that the rounds before this one cannot have made."""
    if not rules.max_router_reach:
        return
    moved = rules.max_router_reach * task.learning_rate * task.steps * (task.round - 1)
    first = dict(make_router(task.spec()).named_parameters())
    for name, parameter in router.named_parameters():
        begun = first[name].detach()
        found = _largest(parameter.detach().cpu() - begun)
        most = moved + 2 * _largest(begun)  # what is drawn may be drawn otherwise elsewhere
        if not found <= most + 1e-6:  # NaN is refused too
            raise EgressError(
                f"the router's {name} is {found:.3g} from where training begins; the rounds before "
                f"round {task.round} can have moved it by {most:.3g} (max_router_reach of --policy)"
            )
    _check_features(task, dict(router.named_buffers()))


def _check_features(task: RouteTask, buffers: dict[str, Tensor]) -> None:
    """Features are standardised by public text: neither magnified nor moved out of sight."""
    scale, origin = buffers.get("features.scale_LD"), buffers.get("features.origin_LD")
    if scale is None or origin is None:
        return
    if not float(scale.min()) >= 0.99 * SMALLEST or not float(scale.max()) <= task.width**0.5:
        raise EgressError("the router divides its features by what no public text can have")
    if not _largest(origin) <= task.width**0.5:
        raise EgressError("the router centres its features where no public text can be")


def _largest(tensor: Tensor) -> float:
    """Largest absolute value; NaN if one is, 0 of nothing."""
    return float(torch.linalg.vector_norm(tensor.double(), float("inf"))) if tensor.numel() else 0.0
