"""What lives in one model: base, experts, adapters, mixture, routers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmore.experts.base.model import Base, load_base
    from fedmore.experts.errors import FedmoreError
    from fedmore.experts.mixture.checkpoint import load_mixture
    from fedmore.experts.mixture.model import Mixture, assemble
    from fedmore.experts.routers.base import Router
    from fedmore.experts.routers.context import Memory
    from fedmore.experts.routers.spec import RouterSpec
else:
    from importlib import import_module

    _HOMES = {
        "Base": "base.model",
        "FedmoreError": "errors",
        "Memory": "routers.context",
        "Mixture": "mixture.model",
        "Router": "routers.base",
        "RouterSpec": "routers.spec",
        "assemble": "mixture.model",
        "load_base": "base.model",
        "load_mixture": "mixture.checkpoint",
    }

    def __getattr__(name):
        """Import an exported name at its first use."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__():
        return __all__


__all__ = [
    "Base",
    "FedmoreError",
    "Memory",
    "Mixture",
    "Router",
    "RouterSpec",
    "assemble",
    "load_base",
    "load_mixture",
]
