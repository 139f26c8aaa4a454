"""What a round's owners are sent of their experts, and what they make of it.

The owners of an expert with several are sent its leading directions, as many as `broadcast_rank`
says. The cut is that of the stored aggregate, whose directions come in order of size, so no
decomposition is needed. An expert with one owner is sent as it is kept: that owner's work must not
depend on a limit that is for many.

With `round_start` "own" an owner takes its own component out of what it was sent and trains it
beside the rest. So it begins at ``W + D'``, with D' what was sent, whatever the cut left out of its
own component: frozen and trained part together are D' by construction. What it sends is the change
of its own factors, and the coordinator adds that to its contribution, which no cut has touched.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from flwr.app import Array, RecordDict

from fedmore.experts import factors as low_rank
from fedmore.experts.factors import Factors
from fedmore.experts.spec import Scale, TargetModule
from fedmore.strategies.compression.policy import is_coarse
from fedmore.strategies.expert_stage.aggregate_mirror import (
    Broadcast,
    broadcast,
    relative_error,
)
from fedmore.strategies.expert_stage.round_start import start_of
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.tasks.train import TrainTask, content_of, pack_change, unpack_change


@dataclass(frozen=True)
class Cut:
    """The leading directions of an aggregate, and the relative Frobenius error of leaving others.

    The error is over all matrices, and 0 if nothing is left out.
    """

    factors: Factors
    error: float

    @property
    def rank(self) -> int:
        """The largest rank over the matrices."""
        return low_rank.highest_rank(self.factors)


def leading(aggregate: Factors, rank: int) -> Cut:
    """The leading `rank` directions of factors as `aggregated` makes them; 0 keeps all.

    A full-size matrix is not cut, as `max_rank` does not cut it either.
    """
    if not rank:
        return Cut(aggregate, 0.0)
    found, lost, size = Factors(), 0.0, 0.0
    for path, change in aggregate.items():
        if len(change) == 1:
            found[path] = change
            size += float(change[0].norm(dtype=torch.float64)) ** 2
            continue
        b, a = change
        squares = (b.double().norm(dim=0) * a.double().norm(dim=1)).square()
        found[path] = b[:, :rank].contiguous(), a[:rank].contiguous()
        lost, size = lost + float(squares[rank:].sum()), size + float(squares.sum())
    return Cut(found, math.sqrt(lost / size) if size else 0.0)


class Downloads:
    """The aggregates of one round: whole, or as what moves their owners' mirrors.

    `rank` is the largest that several owners of an expert are sent; 0 sends all that is kept.
    """

    def __init__(self, codec: str, rank: int = 0) -> None:
        self.codec, self.rank = codec, rank
        self._cuts: dict[str, Cut] = {}
        self._casts: dict[str, Broadcast] = {}
        self._packed: dict[str, Array] = {}
        self._whole: dict[str, Factors] = {}
        self._bytes: dict[tuple[str, str], int] = {}

    def figures(self, name: str) -> dict[str, float]:
        """What a round's metrics say of the downloads of an expert; empty if it was not sent.

        `broadcast_error` is what the cut lost, and `download_error` all that mirrors lack.
        """
        if name not in self._cuts:
            return {}
        cut = self._cuts[name]
        sent = [count for (expert, _), count in self._bytes.items() if expert == name]
        error = {"download_error": self._casts[name].error} if name in self._casts else {}
        return {
            **error,
            "broadcast_rank": cut.rank,
            "broadcast_error": cut.error,
            "download_bytes": sum(sent),
            "download_bytes_per_owner": max(sent, default=0),
        }

    def bytes_to(self, client: str) -> int:
        """The bytes of aggregates that were sent to a client in this round."""
        return sum(count for (_, name), count in self._bytes.items() if name == client)

    def content(
        self,
        state: ExpertState,
        task: TrainTask,
        sites: Sequence[TargetModule],
        holds: int,
        client: str = "",
    ) -> tuple[RecordDict, ExpertState]:
        """A task with the aggregate, to a client that `holds` a mirror; the state after it.

        The mirror of an expert moves once a round.
        """
        cut = self._cut(state)
        if is_coarse(self.codec):
            cast = self._cast(state, cut, sites)
            content, state = cast.content(task, sites, holds), replace(state, mirror=cast.mirror)
        else:
            ranks = [low_rank.ranks(cut.factors)[site.path] for site in sites]
            content = content_of(task, ranks, {"aggregate": self._array(state.name, cut, sites)})
        arrays = content.array_records["state"].values()
        self._bytes[state.name, client] = sum(len(array.data) for array in arrays)
        return content, state

    def start(
        self, state: ExpertState, sites: Sequence[TargetModule], first: Factors, scale: Scale
    ) -> Factors:
        """The start of an owner that derives its factors from what it was sent."""
        return start_of(self._received(state, sites), first, scale)

    def _cut(self, state: ExpertState) -> Cut:
        """What the owners of an expert are sent; it is cut only if there are several."""
        if state.name not in self._cuts:
            most = self.rank if len(state.owners) > 1 else 0
            self._cuts[state.name] = leading(state.aggregate, most)
        return self._cuts[state.name]

    def _cast(self, state: ExpertState, cut: Cut, sites: Sequence[TargetModule]) -> Broadcast:
        name = state.name
        if name not in self._casts:
            most = self.rank if len(state.owners) > 1 else 0
            cast = broadcast(cut.factors, state.mirror, self.codec, sites, most)
            lost = relative_error(cast.mirror, state.aggregate) if cut.error else cast.error
            self._casts[name] = replace(cast, error=lost)
        return self._casts[name]

    def _array(self, name: str, cut: Cut, sites: Sequence[TargetModule]) -> Array:
        if name not in self._packed:
            self._packed[name] = pack_change(self.codec, cut.factors, sites)
        return self._packed[name]

    def _received(self, state: ExpertState, sites: Sequence[TargetModule]) -> Factors:
        name, cut = state.name, self._cut(state)
        if name in self._casts:
            return self._casts[name].mirror
        if name not in self._whole:
            packed = self._array(name, cut, sites)
            self._whole[name] = unpack_change(packed, sites, low_rank.ranks(cut.factors))
        return self._whole[name]
