"""Cuts a text into training windows; in an epoch, every token is trained exactly once.

In every epoch, the segments of the text (documents, and parts of long ones) are joined in a new
random order. A group of them, as large as the buffer, is cut into windows at a time, and their
order is drawn too. A text that fits the buffer is one group, so its windows are in one random
permutation. If the last window of a group is short, it takes tokens from the next group, which then
begins behind them.

A window [T + 1] trains its last T tokens. The token before them is context: the previous token of
the text or, if windows are opened, the opener.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmore.experts.errors import DataError
from fedmore.experts.text.segments import Segment, segments_of
from fedmore.experts.text.tokenization import TextTokenizer

BUFFER = 16 << 20
"""Number of characters of a group, about four million tokens."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """The position in a text.

    Of `group` in `epoch` (both counted from 0), `taken` windows are done. The first `skip` tokens
    of the group were in a window of the group before it.
    """

    epoch: int = 0
    group: int = 0
    taken: int = 0
    skip: int = 0


@dataclass(frozen=True)
class Slice:
    """Windows [count, T + 1], the number of documents in them, and the place after them."""

    windows: Tensor
    documents: int
    place: Place


@dataclass(frozen=True)
class _Group:
    """Joined tokens, the document of each, and the positions at which openers begin."""

    ids: Ids
    numbers: Ids
    openers: frozenset[int]

    def followed_by(self, after: "_Group", most: int) -> "_Group":
        """Append the first tokens of `after`, at most `most` of them."""
        return _Group(
            np.concatenate([self.ids, after.ids[:most]]),
            np.concatenate([self.numbers, after.numbers[:most]]),
            self.openers,
        )


@dataclass(frozen=True)
class _Windows:
    """A group's windows in random order, each with the start of its own tokens and its context.

    The last window has `over` tokens of the next group.
    """

    text: _Group
    starts: tuple[tuple[int, Ids], ...]
    over: int


class Stream:
    """All windows of T = `length` tokens of some segments, in random order by `seed`."""

    def __init__(
        self,
        text: TextTokenizer,
        segments: Sequence[Segment],
        length: int,
        seed: int,
        buffer: int = BUFFER,
    ) -> None:
        self._text, self._segments, self._length, self._seed = text, list(segments), length, seed
        self._buffer = buffer
        self._opening = np.array(text.opener.ids, dtype=np.int64)
        self._ids: dict[int, Ids] = {}
        self._current: tuple[Place, _Windows] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens of an epoch; with several groups, an estimate from the first."""
        chosen = self._groups(0)[0] if self._segments else []
        part, whole = (
            sum(len(p.text) for p in each) for each in (self._those(chosen), self._segments)
        )
        return round(len(self._group(0, 0).ids) * whole / part) if part else 0

    def take(self, place: Place, count: int) -> Slice:
        """Return the next `count` windows; raises `DataError` if the text is empty."""
        if not self.tokens:
            raise DataError("no documents to train on")
        rows: list[Ids] = []
        numbers: set[int] = set()
        while len(rows) < count:
            known = self._windows(place)
            chosen = known.starts[place.taken : place.taken + count - len(rows)]
            for start, context in chosen:
                own = slice(start, start + self._length + 1 - len(context))
                rows.append(np.concatenate([context, known.text.ids[own]]))
                numbers.update(known.text.numbers[own].tolist())
            place = replace(place, taken=place.taken + len(chosen))
            if place.taken == len(known.starts):
                place = self._next(place, known.over)
        return Slice(torch.from_numpy(np.stack(rows)), len(numbers), place)

    def _windows(self, place: Place) -> _Windows:
        """Cut the group of a place into windows; the last result is cached."""
        begin = replace(place, taken=0)
        if self._current is None or self._current[0] != begin:
            self._current = begin, self._cut(begin)
        return self._current[1]

    def _cut(self, place: Place) -> _Windows:
        text, start = self._group(place.epoch, place.group), place.skip
        end, found = len(text.ids), list[tuple[int, Ids]]()
        while start < end:
            context = self._context(text, start)
            found.append((start, context))
            start += self._length + 1 - len(context)
        after = place
        while found and len(text.ids) < start:
            after = self._next(after, 0)
            following = self._group(after.epoch, after.group)
            text = text.followed_by(following, start - len(text.ids))
        random.Random(f"windows/{self._seed}/{place.epoch}/{place.group}").shuffle(found)
        return _Windows(text, tuple(found), start - end)

    def _context(self, text: _Group, start: int) -> Ids:
        """The context of a window; empty if it begins with its own opener."""
        every = self._text.opener.windows
        if start in text.openers and (every or start == 0):
            return self._opening[:0]
        return self._opening if every else text.ids[start - 1 : start or None]

    def _next(self, place: Place, skip: int) -> Place:
        last = place.group + 1 >= len(self._groups(place.epoch))
        epoch, group = (place.epoch + 1, 0) if last else (place.epoch, place.group + 1)
        return Place(epoch, group, 0, skip)

    def _groups(self, epoch: int) -> list[list[int]]:
        """Indices of the segments of every group, in the epoch's order."""
        order = list(range(len(self._segments)))
        random.Random(f"segments/{self._seed}/{epoch}").shuffle(order)
        groups: list[list[int]] = []
        room = 0
        for number in order:
            if room <= 0:
                groups.append([])
                room = self._buffer
            groups[-1].append(number)
            room -= len(self._segments[number].text)
        return groups

    def _those(self, numbers: Sequence[int]) -> list[Segment]:
        return [self._segments[number] for number in numbers]

    def _group(self, epoch: int, group: int) -> _Group:
        chosen = self._groups(epoch)[group]
        if sum(len(p.text) for p in self._those(list(self._ids))) > 2 * self._buffer:
            self._ids.clear()
        parts, numbers, openers, size = [], [], set[int](), 0
        for number in chosen:
            segment, ids = self._segments[number], self._tokens(number)
            if segment.opened and len(self._opening):
                openers.add(size)
                ids = np.array(self._text.opened(ids.tolist()), dtype=np.int64)
            parts.append(ids)
            numbers.append(np.full(len(ids), segment.number))
            size += len(ids)
        return _Group(np.concatenate(parts), np.concatenate(numbers), frozenset(openers))

    def _tokens(self, number: int) -> Ids:
        if (known := self._ids.get(number)) is not None:
            return known
        segment = self._segments[number]
        ids = np.array(self._text.plain(segment.text), dtype=np.int64)
        kept = np.ones(len(ids), dtype=bool)
        for first, last in segment.without:
            kept[first:last] = False
        return self._ids.setdefault(number, ids[kept])


def windows(
    documents: Sequence[str], text: TextTokenizer, length: int, count: int, seed: int
) -> Tensor:
    """Draw `count` training windows, int64 [count, length + 1], by `seed`.

    Of a text that is longer than needed, only a part is tokenised. Raises `DataError` if there is
    no token to train on.
    """
    enough = max(1 << 16, 16 * count * length)
    stream = Stream(text, segments_of(documents), length, seed, enough)
    return stream.take(Place(), count).windows
