"""What a round's owners are sent of their experts, and what they make of it."""

from collections.abc import Sequence
from dataclasses import replace

from flwr.app import RecordDict

from fedmore.experts import factors as low_rank
from fedmore.experts.factors import Factors
from fedmore.experts.spec import TargetModule
from fedmore.strategies.compression.policy import is_coarse
from fedmore.strategies.expert_stage.aggregate_mirror import Broadcast, broadcast
from fedmore.strategies.expert_stage.round_start import start_of
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.tasks.train import TrainTask, pack, train_content, unpack


class Downloads:
    """The aggregates of one round: whole, or as what moves their owners' mirrors."""

    def __init__(self, codec: str) -> None:
        self.codec = codec
        self._casts: dict[str, Broadcast] = {}
        self._whole: dict[str, Factors] = {}

    def error(self, name: str) -> dict[str, float]:
        """The relative error of what was sent of an expert, for its metrics."""
        return {"download_error": self._casts[name].error} if name in self._casts else {}

    def content(
        self,
        state: ExpertState,
        task: TrainTask,
        sites: Sequence[TargetModule],
        holds: int,
    ) -> tuple[RecordDict, ExpertState]:
        """A task with the aggregate, to a client that `holds` a mirror; the state after it.

        The mirror of an expert moves once a round.
        """
        if not is_coarse(self.codec):
            return train_content(task, sites, self.codec, state.aggregate), state
        if state.name not in self._casts:
            self._casts[state.name] = broadcast(state.aggregate, state.mirror, self.codec, sites)
        cast = self._casts[state.name]
        return cast.content(task, sites, holds), replace(state, mirror=cast.mirror)

    def start(
        self, state: ExpertState, sites: Sequence[TargetModule], first: Factors, scale: float
    ) -> Factors:
        """The start of an owner that derives its factors from what it was sent."""
        return start_of(self._received(state, sites), first, scale)

    def _received(self, state: ExpertState, sites: Sequence[TargetModule]) -> Factors:
        if state.name in self._casts:
            return self._casts[state.name].mirror
        if state.name not in self._whole:
            ranks = low_rank.ranks(state.aggregate)
            packed = pack(self.codec, low_rank.tensors(state.aggregate, sites))
            tensors = unpack(packed, low_rank.shapes(sites, ranks))
            self._whole[state.name] = low_rank.from_tensors(tensors, sites)
        return self._whole[state.name]
