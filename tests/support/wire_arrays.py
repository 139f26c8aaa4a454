"""Arrays of a message as tests write them by hand."""

from flwr.app import Array


def array(data: bytes, stype: str = "fedmore.fp32") -> Array:
    """An array of bytes that claims to be encoded as `stype`."""
    return Array("uint8", (len(data),), stype, data)
