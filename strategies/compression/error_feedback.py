"""Error feedback (arXiv 1901.09847): what a codec lost is carried to the next send, never dropped.

``p = change + residual; send C(p); residual = p - C(p)``, so ``sent + residual == change + old
residual`` whatever the codec.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedmore.strategies.compression.codec import Codec, decode, encode


@dataclass(frozen=True)
class Sent:
    """One send: its bytes, what the peer decodes from them, and the new residual."""

    data: bytes
    decoded: list[Tensor]
    residual: list[Tensor]


def send(codec: Codec, change: Sequence[Tensor], residual: Sequence[Tensor]) -> Sent:
    """Encode `change` plus what earlier sends still owe."""
    wanted = [c.detach().cpu().float() + r for c, r in zip(change, residual, strict=True)]
    data = encode(codec, wanted)
    decoded = decode(codec, data, [tuple(w.shape) for w in wanted])
    return Sent(data, decoded, [w - d for w, d in zip(wanted, decoded, strict=True)])
