"""The client program: joins a federation and trains on private text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmore.client.owner.policy import OwnerPolicy, read_policy
else:
    from importlib import import_module

    _HOMES = {
        "OwnerPolicy": "owner.policy",
        "read_policy": "owner.policy",
    }

    def __getattr__(name):
        """Import what is exported when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__():
        return __all__


__all__ = [
    "OwnerPolicy",
    "read_policy",
]
