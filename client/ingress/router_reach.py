"""Whether training could have made the router that a task brings, and its kind the buffers of it.

A router with large numbers decides everything from one direction of the input: only tokens that
lie across it then move the router, and the answer names them. An honest router begins as every
client can make it for itself, and a round moves a number of it by little more than the learning
rate a step. What is further away was chosen, not trained.

Buffers are not trained. Each is as every client makes it for itself, or inside the limit that the
router's class declares for it (`Router.buffer_limits`); that holds for routers of plugins too.
"""

import math

import torch
from torch import Tensor

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import EgressError
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.features import SMALLEST
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.static import SHRINKAGE
from fedmore.strategies.router_stage.tasks import RouteTask

SLACK = 100.0
"""How often the evidence that one token can give is allowed; text may be of rarer tokens."""


def check_router(task: RouteTask, router: Router, rows_VD: Tensor, rules: OwnerPolicy) -> None:
    """Raise `EgressError` for a router that neither its kind nor the rounds before can have made.

    `rows_VD` are the base's input embeddings.
    """
    first = make_router(task.spec())
    check_buffers(task.kind, router, first)
    if rules.max_router_reach:
        check_reach(task, router, first, rules)
        state = router.state_dict()
        _check_features(task.width, state)
        _check_domains(task.width, state, rows_VD)


def check_buffers(kind: str, router: Router, first: Router) -> None:
    """Raise `EgressError` for a buffer that is not as in `first` and beyond its declared limit."""
    limits, begun = router.buffer_limits(), dict(first.named_buffers())
    for name, buffer in router.named_buffers():
        most = limits.get(name)
        if most is None and not torch.equal(buffer.cpu(), begun[name].cpu()):
            raise EgressError(
                f"the router's {name} is not as routers of kind {kind!r} are made, and their class "
                "declares no limit for it (Router.buffer_limits)"
            )
        if most is not None and not _largest(buffer) <= most * (1 + 1e-6):
            raise EgressError(
                f"the router's {name} has a number of {_largest(buffer):.3g}; routers of kind "
                f"{kind!r} have at most {most:.3g} there"
            )


def check_reach(task: RouteTask, router: Router, first: Router, rules: OwnerPolicy) -> None:
    """Raise `EgressError` for parameters that the rounds before this one cannot have made."""
    moved = rules.max_router_reach * task.learning_rate * task.steps * (task.round - 1)
    start = dict(first.named_parameters())
    for name, parameter in router.named_parameters():
        begun = start[name].detach()
        found = _largest(parameter.detach().cpu() - begun)
        most = moved + 2 * _largest(begun)  # what is drawn may be drawn otherwise elsewhere
        if not found <= most + 1e-6:  # NaN is refused too
            raise EgressError(
                f"the router's {name} is {found:.3g} from where training begins; the rounds before "
                f"round {task.round} can have moved it by {most:.3g} (max_router_reach of --policy)"
            )


def _check_features(width: int, state: dict[str, Tensor]) -> None:
    """Features are standardised by public text: neither magnified nor moved out of sight."""
    scale, origin = state.get("features.scale_LD"), state.get("features.origin_LD")
    if scale is None or origin is None:
        return
    if not float(scale.min()) >= 0.99 * SMALLEST or not float(scale.max()) <= width**0.5:
        raise EgressError("the router divides its features by what no public text can have")
    if not _largest(origin) <= width**0.5:
        raise EgressError("the router centres its features where no public text can be")


def _check_domains(width: int, state: dict[str, Tensor], rows_VD: Tensor) -> None:
    """A start from domain embeddings: no token is more evidence than a linear discriminant has.

    Its covariance is shrunk, and so a row of it is no longer than an offset between two embeddings
    by `SHRINKAGE` of the variance of one number, ``norm^2 / width``.
    """
    rows, bias, origin = (state.get(f"domain.{name}") for name in ("rows_ED", "bias_E", "origin_D"))
    if rows is None or bias is None or origin is None:
        return
    norms_V = torch.linalg.vector_norm(rows_VD.detach(), dim=1, dtype=torch.float64)
    most, usual = SLACK * width / SHRINKAGE, float(norms_V.square().mean().sqrt())
    centre = float(torch.linalg.vector_norm(origin.double()))
    longest = float(torch.linalg.vector_norm(rows.double(), dim=1).max())
    if not centre <= float(norms_V.max()) * (1 + 1e-6):
        raise EgressError("the router centres its domains where no public text can be")
    if not max((usual + centre) * longest, _largest(bias)) <= most:
        raise EgressError(
            f"the router's domains count one token as more than {most:.3g} times the evidence that "
            "a domain gives"
        )


def _largest(tensor: Tensor) -> float:
    """Largest absolute value; NaN if one is, 0 of nothing."""
    numbers = tensor.detach().double().flatten()
    return float(torch.linalg.vector_norm(numbers, math.inf)) if tensor.numel() else 0.0
