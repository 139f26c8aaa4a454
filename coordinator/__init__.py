"""The coordinator program: registry, transport, plan, assembly, evaluation."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmore.coordinator.config.schema import FederationConfig, load_config
    from fedmore.coordinator.folder.federation import Federation, open_federation
    from fedmore.coordinator.mixture.commands import AssembleOptions, assemble_mixture
    from fedmore.coordinator.store.registry import Registry
else:
    from importlib import import_module

    _HOMES = {
        "AssembleOptions": "mixture.commands",
        "Federation": "folder.federation",
        "FederationConfig": "config.schema",
        "Registry": "store.registry",
        "assemble_mixture": "mixture.commands",
        "load_config": "config.schema",
        "open_federation": "folder.federation",
    }

    def __getattr__(name):
        """Import an exported name at its first use."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__():
        return __all__


__all__ = [
    "AssembleOptions",
    "Federation",
    "FederationConfig",
    "Registry",
    "assemble_mixture",
    "load_config",
    "open_federation",
]
