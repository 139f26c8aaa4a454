"""What a federation tells a client about itself."""

from dataclasses import asdict, dataclass

from fedmore.protos import federation_pb2 as pb


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
        """The inverse of `to_proto`."""
        return cls(
            name=message.name,
            base=message.base,
            fingerprint=message.fingerprint,
            dtype=message.dtype,
            quantization=message.quantization,
            seed=message.seed,
        )
