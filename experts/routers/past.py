"""The router's memory of texts whose keys and values are in a cache.

It takes part in every operation on the cache: sequences are reordered, selected and repeated, and
tokens are cut off. So it has numbers for every token, not only for the last.

Shape suffixes: B sequences (1 if all are alike), T tokens so far, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]


@dataclass
class Track:
    """Numbers of every token, [B, T, ...], in the pieces in which they arrived."""

    pieces: list[Tensor] = field(default_factory=list)

    @property
    def last(self) -> Tensor | None:
        """The numbers of the last token, [B, 1, ...]; None if there are no tokens."""
        return self.pieces[-1][:, -1:] if self.pieces else None

    def add(self, piece: Tensor, whole: bool) -> None:
        """Add the numbers of the next tokens; without `whole`, keep only the last token's."""
        if whole:
            self.pieces.append(piece)
        else:
            self.pieces = [piece[:, -1:].clone()]

    def cut(self, kept: int) -> None:
        """Keep the first `kept` tokens."""
        whole = self._whole()[:, :kept] if self.pieces else None
        self.pieces = [] if whole is None or not kept else [whole]

    def change(self, change: Change, alike: bool) -> None:
        """Apply a change to the sequences.

        With `alike`, a single row serves all and does not change.
        """
        if self.pieces and not (alike and max(map(len, self.pieces)) == 1):
            self.pieces = [change(self._whole())]

    def _whole(self) -> Tensor:
        if len({len(piece) for piece in self.pieces}) > 1:
            rows = max(map(len, self.pieces))
            self.pieces = [p.expand(rows, *p.shape[1:]) for p in self.pieces]
        return self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces, dim=1)


class Past:
    """All tokens so far of a batch of texts, as the router needs them.

    `number` counts the real tokens of each text from 1, the start token. `position` holds the given
    positions, and `sums` the running sums of every decision. `mask_BT` is False at padding.
    `first_pass` is the cache of the base's own pass, for two-pass routers. `owner` names the
    mixture.
    """

    def __init__(self, owner: str = "", whole: bool = True) -> None:
        self.owner, self.whole = owner, whole
        self.reset()

    def reset(self) -> None:
        """Forget all tokens of all texts."""
        self.seen = 0
        self.mask_BT: Tensor | None = None
        self.number, self.position = Track(), Track()
        self.sums: dict[int, Track] = {}
        self.first_pass: Any = None

    def real(self, like: Tensor) -> Tensor:
        """Which tokens are real, [B, seen], for at least as many sequences as `like` has."""
        if self.mask_BT is None:
            return like.new_ones(len(like), self.seen, dtype=torch.bool)
        return self.mask_BT.expand(max(len(like), len(self.mask_BT)), -1)

    def of_the_last_text(self, real_BT: Tensor) -> Tensor:
        """Which real tokens belong to the last text of each sequence, [B, seen]."""
        last = self.number.last
        if last is None:
            return real_BT
        from_here = real_BT.flip(1).cumsum(1).flip(1)
        return real_BT & (from_here <= last)

    def cut(self, kept: int) -> None:
        """Keep the first `kept` tokens."""
        kept = max(0, kept)
        if self.first_pass is not None and kept < self.seen:
            self.first_pass.crop(kept - self.seen)
        for track in self._tracks():
            track.cut(kept)
        if self.mask_BT is not None:
            self.mask_BT = self.mask_BT[:, :kept]
        self.seen = kept

    def select(self, index: Any) -> None:
        """Keep these sequences, in this order; an index may be repeated."""
        self._change(lambda tensor: tensor[_near(index, tensor)])
        if self.first_pass is not None:
            self.first_pass.batch_select_indices(index)

    def repeat(self, times: int) -> None:
        """Repeat every sequence, with its copies next to each other."""
        self._change(lambda tensor: tensor.repeat_interleave(times, dim=0))
        if self.first_pass is not None:
            self.first_pass.batch_repeat_interleave(times)

    def _tracks(self) -> list[Track]:
        return [self.number, self.position, *self.sums.values()]

    def _change(self, change: Change) -> None:
        for track in (self.number, self.position):
            track.change(change, alike=True)
        for track in self.sums.values():
            track.change(change, alike=False)
        if self.mask_BT is not None and len(self.mask_BT) > 1:
            self.mask_BT = change(self.mask_BT)


def _near(index: Any, tensor: Tensor) -> Any:
    return index.to(tensor.device) if isinstance(index, Tensor) else index
