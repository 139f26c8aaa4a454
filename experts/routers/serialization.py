"""Converts a router to a table and tensors, and back."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedmore.experts.errors import RegistryError
from fedmore.experts.former_names import ROUTER, today
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.learned import RemixRouter, SoftmaxRouter, XLoraRouter
from fedmore.experts.routers.spec import ROUTERS, RouterSpec
from fedmore.experts.routers.static import ArrowRouter, DomainRouter, UniformRouter

CLASSES: Mapping[str, type[Router]] = {
    "uniform": UniformRouter,
    "domain": DomainRouter,
    "arrow": ArrowRouter,
    "softmax": SoftmaxRouter,
    "xlora": XLoraRouter,
    "remix": RemixRouter,
}

ABOUT = "about"


def make_router(spec: RouterSpec) -> Router:
    """Make an untrained router."""
    return router_class(spec.kind)(spec)


def router_class(kind: str) -> type[Router]:
    """The class of a kind in `ROUTERS`.

    Imports a plugin, and raises `ConfigError` if that fails.
    """
    if kind in CLASSES:
        return CLASSES[kind]
    return cast("type[Router]", ROUTERS.load(kind, _fault))


def _fault(made: object) -> str:
    if isinstance(made, type) and issubclass(made, Router):
        return ""
    return "is not a subclass of fedmore.experts.Router"


def restore_router(table: Mapping[str, Any], state: Mapping[str, Tensor]) -> Router:
    """Make a router of `spec.table()` and `state_dict()`.

    Raises `RegistryError` if they disagree.
    """
    try:
        router = make_router(RouterSpec(**today(table, ROUTER)))
        router.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RegistryError(f"the router's numbers do not fit it ({error})") from error
    return router.train(False)


def dump_router(router: Router, experts: Sequence[str]) -> bytes:
    """Write a router and its experts' names, in order, as one safetensors file."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in router.state_dict().items()}
    about = json.dumps({"spec": router.spec.table(), "experts": list(experts)})
    tensors[ABOUT] = torch.tensor(list(about.encode()), dtype=torch.uint8)
    blob: bytes = save(tensors)
    return blob


def load_router(data: bytes) -> tuple[Router, list[str]]:
    """Invert `dump_router`."""
    tensors: dict[str, Tensor] = load(data)
    about = json.loads(bytes(tensors.pop(ABOUT).tolist()))
    return restore_router(about["spec"], tensors), about["experts"]
