"""What a task's arrays become in memory, reckoned before they are decoded.

It follows from the shapes that the task declares: an array of one bit a number becomes 32 times as
much. What a task may declare follows from the base, since no change of a matrix has more than its
full rank. It is bounded further by the memory that is free here.
"""

from collections.abc import Iterable

from fedmore.client.hardware.device import gib, memory
from fedmore.experts.errors import EgressError
from fedmore.experts.factors import WHOLE, size_at
from fedmore.experts.spec import TargetModule

SHARE = 0.5
"""Part of the free memory that the arrays of one task may take, decoded."""

FLOAT = 4


def decoding_limit() -> int:
    """Bytes of float32 that the arrays of a task may become on this machine now."""
    return int(SHARE * memory()[1])


def check_decoding(brought: Iterable[tuple[TargetModule, int]]) -> None:
    """Raise `EgressError` for a task whose arrays would be too large once they are decoded.

    `brought` are the matrices of the base that its factors belong to, and the rank of each.
    """
    size, limit = decoded_bytes(brought), decoding_limit()
    if size > limit:
        raise EgressError(
            f"a task's arrays would take {gib(size)} of memory, and this client gives them "
            f"{gib(limit)} at most: half of what is free"
        )


def decoded_bytes(brought: Iterable[tuple[TargetModule, int]]) -> int:
    """Bytes of float32 that factors become; raises `EgressError` for a rank that cannot be."""
    numbers = 0
    for site, rank in brought:
        most = min(site.out_features, site.in_features)
        if rank != WHOLE and not 0 <= rank <= most:
            raise EgressError(f"{site.path}: a task brings a rank of {rank}, not 0 to {most}")
        numbers += size_at(site, rank)
    return FLOAT * numbers
