"""What a task's arrays become in memory, reckoned before they are decoded.

It follows from the shapes that the task declares: an array of one bit a number becomes 32 times as
much. What a task may declare follows from the base, since no change of a matrix has more than its
full rank. It is bounded further by the memory that is free here.
"""

from collections.abc import Iterable, Sequence

from flwr.app import Message

from fedmore.client.hardware.device import gib, memory
from fedmore.experts.errors import EgressError
from fedmore.experts.spec import Shapes, TargetModule
from fedmore.strategies.router_stage.tasks import ROUTE, read_route_task
from fedmore.strategies.tasks.train import TRAIN, read_task

SHARE = 0.5
"""Part of the free memory that the arrays of one task may take, decoded."""

FLOAT = 4


def decoding_limit() -> int:
    """Bytes of float32 that the arrays of a task may become on this machine now."""
    return int(SHARE * memory()[1])


def check_decoding(task: Message, sites: Sequence[TargetModule], shapes: Shapes) -> None:
    """Raise `EgressError` for a task whose arrays would be too large once they are decoded.

    `sites` are the matrices that a training task changes, `shapes` those of the whole base.
    """
    size, limit = decoded_bytes(task, sites, shapes), decoding_limit()
    if size > limit:
        raise EgressError(
            f"a task's arrays would take {gib(size)} of memory, and this client gives them "
            f"{gib(limit)} at most: half of what is free"
        )


def decoded_bytes(task: Message, sites: Sequence[TargetModule], shapes: Shapes) -> int:
    """Bytes of float32 that the factors which `task` brings become; raises `EgressError`."""
    if task.metadata.message_type == TRAIN:
        asked = read_task(task.content)
        shared = zip(sites, asked.aggregate_ranks, strict=False)  # `read_aggregate` wants the same
        return _bytes([*shared, *((site, asked.rank) for site in sites)])
    if task.metadata.message_type == ROUTE:
        pairs = [pair for expert in read_route_task(task.content).sites(shapes) for pair in expert]
        return _bytes(pairs)
    return 0


def _bytes(pairs: Iterable[tuple[TargetModule, int]]) -> int:
    numbers = 0
    for site, rank in pairs:
        if not 0 <= rank <= min(site.out_features, site.in_features):
            most = min(site.out_features, site.in_features)
            raise EgressError(f"{site.path}: a task brings a rank of {rank}, not 0 to {most}")
        numbers += rank * (site.out_features + site.in_features)
    return FLOAT * numbers
