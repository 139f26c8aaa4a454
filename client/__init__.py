"""The client program: joins a federation and trains on private text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmore.client.egress.answer_rules import AnswerRules
    from fedmore.client.egress.schema import AnswerSchema, Number, Packed
    from fedmore.client.owner.node_config import Node
    from fedmore.client.owner.policy import OwnerPolicy, read_policy
else:
    from importlib import import_module

    _HOMES = {
        "AnswerRules": "egress.answer_rules",
        "AnswerSchema": "egress.schema",
        "Node": "owner.node_config",
        "Number": "egress.schema",
        "OwnerPolicy": "owner.policy",
        "Packed": "egress.schema",
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
    "AnswerRules",
    "AnswerSchema",
    "Node",
    "Number",
    "OwnerPolicy",
    "Packed",
    "read_policy",
]
