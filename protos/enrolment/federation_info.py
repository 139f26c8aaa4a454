"""A federation's description for clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb

Value = bool | int | float | str
"""Types of value that Flower allows in a run config and a node config."""

MAX_VALUES, LONGEST_KEY, LONGEST_TEXT = 128, 128, 4096
"""Limits of a run config: number of values, characters of a key, characters of a text."""

_KINDS: dict[type, str] = {bool: "flag", int: "whole", float: "real", str: "text"}

LONGEST = 4_096
"""Most characters of a name or path."""

LIMITS = {"plan": 65_536}
"""Most characters of fields that may be longer."""


@dataclass(frozen=True)
class FederationInfo:
    """Name, seed and base; `base` is a path or hub name, `fingerprint` identifies its contents.

    `opener` opens every document and, with `open_windows`, also windows inside documents. `plan` is
    the plan for owners, written by `fedmore.strategies.terms.Terms.dump`; it is empty for a foreign
    Flower app. `run_config` is for the clients of such an app, and empty otherwise.
    """

    name: str
    base: str
    fingerprint: str = ""
    dtype: str = "auto"
    quantization: str = "none"
    seed: int = 0
    opener: str = "auto"
    open_windows: bool = False
    plan: str = ""
    run_config: Mapping[str, Value] = field(default_factory=dict)

    def to_proto(self) -> pb.FederationInfo:
        """Convert to the message."""
        message = pb.FederationInfo(**{name: getattr(self, name) for name in _SIMPLE})
        for key, value in self.run_config.items():
            setattr(message.run_config[key], _KINDS[type(value)], value)
        return message

    @classmethod
    def from_proto(cls, message: pb.FederationInfo) -> "FederationInfo":
        """Invert `to_proto`; raises `WireError` for texts that are too long or not printable.

        The texts are names and a path: the owner sees them, and the base is loaded from the path.
        """
        config = {key: _value(key, value) for key, value in sorted(message.run_config.items())}
        if fault := fault_of(config):
            raise WireError(f"the federation's run config {fault}")
        texts = {name: getattr(message, name) for name in _SIMPLE}
        texts["opener"] = texts["opener"] or "auto"  # older coordinators send none
        for key, value in texts.items():
            if isinstance(value, str) and not (
                value.isprintable() and len(value) <= LIMITS.get(key, LONGEST)
            ):
                raise WireError(f"the federation's {key} is {value[:80]!a}: not a line of text")
        return cls(**texts, run_config=config)


_SIMPLE = tuple(each.name for each in fields(FederationInfo) if each.name != "run_config")


def fault_of(config: Mapping[str, Value]) -> str:
    """The fault of a run config; empty if its types and sizes are allowed."""
    if len(config) > MAX_VALUES:
        return f"has {len(config)} values, more than {MAX_VALUES}"
    for key, value in config.items():
        if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
            return f"has the key {key[:40]!r}: a key is 1 to {LONGEST_KEY} printable characters"
        if type(value) not in _KINDS:
            return f"has a {type(value).__name__} at {key!r}: it must be a bool, number or text"
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            return f"has a text of {len(value)} characters at {key!r}, above {LONGEST_TEXT}"
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return f"has a whole number at {key!r} that takes more than 64 bits"
    return ""


def _value(key: str, message: pb.Value) -> Value:
    kind = message.WhichOneof("value")
    if kind is None:
        raise WireError(f"the federation's run config has no value at {key[:40]!r}")
    found: Value = getattr(message, kind)
    return found
