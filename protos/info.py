"""What a federation tells a client about itself."""

from dataclasses import asdict, dataclass

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb

LONGEST = 4_096
"""Characters of a name or path."""


@dataclass(frozen=True)
class FederationInfo:
    """Name, seed and base; `base` is a path or hub name, `fingerprint` of the base's weights."""

    name: str
    base: str
    fingerprint: str = ""
    dtype: str = "auto"
    quantization: str = "none"
    seed: int = 0

    def to_proto(self) -> pb.FederationInfo:
        """As the wire carries it."""
        return pb.FederationInfo(**asdict(self))

    @classmethod
    def from_proto(cls, message: pb.FederationInfo) -> "FederationInfo":
        """The inverse of `to_proto`; raises `WireError` for texts that cannot be shown.

        They are names and a path, of which the owner is told and a base is loaded.
        """
        found = cls(
            name=message.name,
            base=message.base,
            fingerprint=message.fingerprint,
            dtype=message.dtype,
            quantization=message.quantization,
            seed=message.seed,
        )
        for key, value in asdict(found).items():
            if isinstance(value, str) and not (value.isprintable() and len(value) <= LONGEST):
                raise WireError(f"the federation's {key} is {value[:80]!a}: not a line of text")
        return found
