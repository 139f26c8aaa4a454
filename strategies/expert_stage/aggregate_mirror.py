"""The aggregate as an expert's owners hold it: a mirrored state, moved by few bits (EF21).

Coordinator and clients hold the *mirror* ``h = (B_h, A_h)`` of the aggregate ``D = B A``. In a
round ``C(theta - h)`` travels and both ends add what it decodes to (arXiv 2106.05203), so what the
codec loses in one round is in the next one's difference. That needs theta in h's coordinates. The
factors of D are not, since ``(B Q, Q^T A)`` is the same D for every rotation Q; of all these theta
is the one that lies nearest to h (orthogonal Procrustes, Schönemann 1966):

    min_Q |B Q - B_h|^2 + |Q^T A - A_h|^2    is    Q = U V^T,  U S V^T = B^T B_h + A A_h^T

A full-size aggregate has the weights themselves as coordinates, so theta is D. It is sent whole if
it was of low rank before, or is now. The mirror's numbers are bfloat16's: whoever lacks it, or
holds another, is sent it whole in `bf16` and has the same bits. Who holds which is known by the
mirror's *mark*, a number made of its bits.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from flwr.app import Array, RecordDict
from torch import Tensor

from fedmore.experts import factors as low_rank
from fedmore.experts.errors import WireError
from fedmore.experts.factors import Change, Factors
from fedmore.experts.spec import TargetModule
from fedmore.kernels.determinism import one_thread
from fedmore.kernels.lowrank_sum import cpu as delta
from fedmore.strategies.compression import layout, mirrored
from fedmore.strategies.compression.codec import codecs_of
from fedmore.strategies.tasks.train import (
    TrainRequest,
    TrainTask,
    content_of,
    pack,
    train_content,
)

WHOLE = "bf16"
"""How a mirror travels whole: without loss."""

MOST_LEFT = 0.5
"""The largest part of theta's norm that a move may leave; one bit of all of it leaves about 0.6."""


@dataclass(frozen=True)
class Broadcast:
    """What the owners of an expert are sent in one round.

    `mirror` is what they hold after it. `move` brings there an owner that holds the mirror of the
    mark `upon`, with the codec or policy `codec`; if `upon` is 0 nobody holds it. `error` is the
    relative Frobenius error of the mirror's products.
    """

    mirror: Factors
    error: float
    codec: str = WHOLE
    move: bytes = b""
    upon: int = 0
    _packed: list[Array] = field(default_factory=list, compare=False, repr=False)

    @cached_property
    def mark(self) -> int:
        """The mark of what the owners hold after it."""
        return fingerprint(self.mirror)

    def content(self, task: TrainTask, sites: Sequence[TargetModule], holds: int) -> RecordDict:
        """The message to a client that holds the mirror of the mark `holds`, 0 for none."""
        task = replace(task, mirror=self.mark)
        if self.upon and holds == self.upon:
            return train_content(task, sites, self.codec, self.mirror, self.move)
        ranks = [low_rank.ranks(self.mirror)[site.path] for site in sites]
        return content_of(task, ranks, {"aggregate": self._whole(sites)})

    def _whole(self, sites: Sequence[TargetModule]) -> Array:
        if not self._packed:
            self._packed.append(pack(WHOLE, low_rank.tensors(self.mirror, sites)))
        return self._packed[0]


def broadcast(
    aggregate: Factors, held: Factors, codec: str, sites: Sequence[TargetModule], most: int = 0
) -> Broadcast:
    """The next send after that which made the mirror `held`, empty before the first.

    All is sent anew where a move would leave too much (`MOST_LEFT`), such as after an owner came or
    where Krum chose another one. So it is if `held` has a rank above `most`, where 0 is any.
    """
    if not held or 0 < most < low_rank.highest_rank(held) or _differ(held, aggregate):
        return _whole(aggregate)
    start = {path: _widened(held[path], change) for path, change in aggregate.items()}
    target, ranks = low_rank.tensors(nearest(aggregate, start), sites), low_rank.ranks(start)
    roles = low_rank.roles(sites, ranks)
    codecs = codecs_of(codec, [tuple(tensor.shape) for tensor in target], roles)
    # No gain: it makes up for a last send, and what counts here is how near every one comes.
    moved = mirrored.send(codecs, target, low_rank.tensors(start, sites), gains={})
    if _size(t - h for t, h in zip(target, moved.held, strict=True)) > MOST_LEFT * _size(target):
        return _whole(aggregate)
    mirror = _rounded(low_rank.from_tensors(moved.held, sites, ranks))
    return Broadcast(
        mirror, relative_error(mirror, aggregate), codec, moved.data, fingerprint(held)
    )


def _differ(held: Factors, aggregate: Factors) -> bool:
    """Whether a matrix was of full size and is not now, or the other way round."""
    return any(len(held[path]) != len(change) for path, change in aggregate.items())


def _whole(aggregate: Factors) -> Broadcast:
    mirror = _rounded(aggregate)
    return Broadcast(mirror, relative_error(mirror, aggregate))


def received(request: TrainRequest, sites: Sequence[TargetModule], held: Factors) -> Factors | None:
    """The aggregate that a task trains over, None for none; `held` is the client's mirror.

    Raises `WireError` if it is not what the coordinator holds.
    """
    task, move = request.task, request.move(sites)
    if move is None:
        found = request.aggregate(sites)
    else:
        start = {p: _widened(held[p], change) for p, change in move.items() if p in held}
        if low_rank.ranks(start) != low_rank.ranks(move):
            raise WireError(f"{task.expert}: no mirror is held here that could be moved so")
        found = _rounded(low_rank.total(start, move))
    if found is not None and task.mirror not in (0, fingerprint(found)):
        raise WireError(f"{task.expert}: the mirror of the aggregate is not the coordinator's")
    return found


def nearest(aggregate: Factors, held: Factors) -> Factors:
    """The factors of `aggregate`'s product that are nearest to `held`.

    In `held`'s ranks, which may be larger but not smaller than those of `aggregate`.
    """
    with one_thread():
        return {path: _near(change, held[path]) for path, change in aggregate.items()}


def _near(change: Change, held: Change) -> Change:
    wide = _widened(change, held)
    if len(wide) == 1 or len(held) == 1:
        return wide  # the coordinates of a full-size change are the weights
    return _rotated(*wide, *held)


def _widened(change: Change, like: Change) -> Change:
    """The same product with a rank of at least that of `like`, filled up with zeros."""
    if len(change) == 1 or len(like) == 1:
        return change
    (b_OR, a_RI), rank = change, like[1].shape[0]
    more = max(0, rank - a_RI.shape[0])
    pad = torch.nn.functional.pad
    return pad(b_OR, (0, more)), pad(a_RI, (0, 0, 0, more))


def _rotated(b_OR: Tensor, a_RI: Tensor, b_h_OR: Tensor, a_h_RI: Tensor) -> tuple[Tensor, Tensor]:
    b, a = b_OR.double(), a_RI.double()
    u_RR, _, vh_RR = torch.linalg.svd(b.T @ b_h_OR.double() + a @ a_h_RI.double().T)
    q_RR = u_RR @ vh_RR
    return (b @ q_RR).float(), (q_RR.T @ a).float()


def fingerprint(mirror: Factors) -> int:
    """A number below 2^48 that tells mirrors apart; 0 for none."""
    if not mirror:
        return 0
    total = hashlib.sha256()
    for path, pair in sorted(mirror.items()):
        for tensor in pair:
            total.update(f"{path} {tuple(tensor.shape)}\n".encode())
            total.update(layout.raw(tensor.bfloat16()))
    return int.from_bytes(total.digest()[:6], "little")


def relative_error(mirror: Factors, aggregate: Factors) -> float:
    """The relative Frobenius error over all matrices, 0 if there is nothing."""
    wrong, exact = 0.0, 0.0
    with one_thread():
        for path, pair in aggregate.items():
            wrong += delta.norm([delta.term(mirror[path], 1.0), delta.term(pair, -1.0)]) ** 2
            exact += delta.norm([delta.term(pair, 1.0)]) ** 2
    return math.sqrt(wrong / exact) if exact else 0.0


def _size(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _rounded(factors: Factors) -> Factors:
    return low_rank.mapped(factors, lambda factor: factor.bfloat16().float())
