"""How evenly the server serves the conversations that stream at the same time: the sums that Jain's index is made of.

Time is cut into intervals of several lengths side by side; a report reads the shortest that holds enough gaps. For each interval the
conversations that stream through the whole of it are counted, with the sum of their tokens and the sum of the squares: these add up
over workers, and (sum of x)^2 / (n * sum of x^2) is the index (R. Jain, D. Chiu, W. Hawe, DEC-TR-301, 1984). A conversation that gets
no token in an interval counts with nought: it is the one that the index is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LENGTHS_S: Final = (1, 5, 25)
"""Lengths of the intervals: ten gaps of up to 0.1, 0.5 and 2.5 seconds."""
_NONE: Final = np.zeros(0, np.int64)


class Shares:
    """Takes tokens as they are measured, and gives what has become certain as rows; numbers of conversations are the worker's own.

    What is held is one entry for each conversation that streams: for each length the interval it is in, the tokens it has got there so
    far, and whether it streamed from the interval's start (``whole``). Its cost goes with what is new, not with what is held.
    """

    def __init__(self, lengths_s: Sequence[int] = LENGTHS_S) -> None:
        self._lengths = tuple(lengths_s)
        self._tokens: list[tuple[Ints, Ints, Ints]] = []
        self._ends: list[tuple[int, int]] = []
        self._dropped: list[int] = []
        # Sorted by conversation; one row a length.
        self._held = _NONE
        self._interval = self._count = np.zeros((len(self._lengths), 0), np.int64)
        self._whole = np.zeros((len(self._lengths), 0), np.bool_)

    def add(self, conversation: Ints, second: Ints, count: Ints) -> None:
        """So many tokens of each conversation in each second, in any order; a conversation begins with the second of its first token."""
        self._tokens.append((conversation, second, count))

    def end(self, conversation: int, second: int) -> None:
        """The conversation has ended in this second."""
        self._ends.append((conversation, second))

    def drop(self, conversation: int) -> None:
        """The conversation has ended and does not count from now on."""
        self._dropped.append(conversation)

    def take(self) -> list[dict[str, Any]]:
        """Rows of what has become certain since the last call, without the worker's name; rows of one interval add up."""
        if not self._tokens and not self._ends and not self._dropped:
            return []
        ended = np.array(self._ends, dtype=np.int64).reshape(-1, 2)
        dropped = np.array(self._dropped, dtype=np.int64)
        # An end is an entry without tokens: it closes what is before it, and stands itself for the interval that it cuts.
        parts = [*self._tokens, (ended[:, 0], ended[:, 1], np.zeros(len(ended), np.int64))]
        conversation, second, count = (np.concatenate([part[column] for part in parts]) for column in range(3))
        self._tokens, self._ends, self._dropped = [], [], []
        if len(dropped):
            sound = ~np.isin(conversation, dropped)
            conversation, second, count = conversation[sound], second[sound], count[sound]
        rows = self._advance(conversation, second, count) if len(conversation) else []
        gone = np.concatenate([ended[:, 0], dropped])
        if len(gone):
            stay = ~np.isin(self._held, gone)
            self._held = self._held[stay]
            self._interval, self._count, self._whole = self._interval[:, stay], self._count[:, stay], self._whole[:, stay]
        return rows

    def _advance(self, conversation: Ints, second: Ints, count: Ints) -> list[dict[str, Any]]:
        order = np.lexsort((second, conversation))
        conversation, second, count = conversation[order], second[order], count[order]
        change = np.ones(len(order), np.bool_)
        change[1:] = conversation[1:] != conversation[:-1]
        distinct = conversation[change]
        place = np.searchsorted(self._held, distinct)
        known = np.zeros(len(distinct), np.bool_)
        if len(self._held):
            known = self._held[np.minimum(place, len(self._held) - 1)] == distinct
        # Room for those that are new, so that every conversation has its entry.
        fresh, at = distinct[~known], place[~known]
        if len(fresh):
            self._held = np.insert(self._held, at, fresh)
            self._interval = np.insert(self._interval, at, -1, axis=1)
            self._count, self._whole = np.insert(self._count, at, 0, axis=1), np.insert(self._whole, at, False, axis=1)
            place = np.searchsorted(self._held, distinct)
        rows: list[dict[str, Any]] = []
        for number, length in enumerate(self._lengths):
            sums = self._advance_length(number, second // length, count, change, place, known)
            for interval, (conversations, served, tokens, squared) in sums.items():
                row = {"conversations": conversations, "served": served, "tokens": tokens, "tokens_squared": squared}
                rows.append({"second": interval * length, "length_s": length, **row})
        return rows

    def _advance_length(
        self, number: int, interval: Ints, count: Ints, change: Flags, place: Ints, known: Flags
    ) -> dict[int, tuple[int, int, int, int]]:
        """Sums of each interval of one length about which something has become certain; ``place``: of each conversation in what is held."""
        new = change.copy()
        new[1:] |= interval[1:] != interval[:-1]
        at = np.flatnonzero(new)
        count, interval, first = np.add.reduceat(count, at), interval[at], change[at]
        last = np.append(first[1:], True)
        held_interval, held_count, held_whole = (one[number, place] for one in (self._interval, self._count, self._whole))
        # The first entry of a conversation goes on in the interval that is held, or closes it.
        goes_on = known & (held_interval == interval[first])
        whole = np.ones(len(at), np.bool_)
        whole[first] = np.where(goes_on, held_whole, known)
        count[first] += np.where(goes_on, held_count, 0)
        closes = known & ~goes_on
        sure = np.flatnonzero(~last)
        closed = np.concatenate([held_interval[closes], interval[sure]])
        until = np.concatenate([interval[first][closes], interval[sure + 1]])
        tokens = np.concatenate([held_count[closes], count[sure]])
        streamed = np.concatenate([held_whole[closes], whole[sure]])
        self._interval[number, place], self._count[number, place], self._whole[number, place] = interval[last], count[last], whole[last]
        return _sums(closed, until, tokens, streamed)


def _sums(interval: Ints, until: Ints, tokens: Ints, streamed: Flags) -> dict[int, tuple[int, int, int, int]]:
    """Sums by interval: of the closed ones that were streamed through, and of the silent ones up to the next that had a token."""
    if not len(interval):
        return {}
    base = int(interval.min())
    size = int(until.max()) - base + 2
    silent = np.cumsum(np.bincount(interval + 1 - base, minlength=size) - np.bincount(until - base, minlength=size))
    at, x = interval[streamed] - base, tokens[streamed].astype(np.float64)
    present = np.bincount(at, minlength=size) + silent
    total = np.bincount(at, weights=x, minlength=size).astype(np.int64)
    squared = np.bincount(at, weights=x**2, minlength=size).astype(np.int64)
    served = np.bincount(at[x > 0], minlength=size)
    return {base + i: (int(present[i]), int(served[i]), int(total[i]), int(squared[i])) for i in np.flatnonzero(present).tolist()}


def jain(conversations: npt.ArrayLike, tokens: npt.ArrayLike, squared: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Jain's index from the three sums of each interval: 1 when all get the same, 1/n when one gets all; NaN where none got any."""
    n, x, xx = (np.asarray(one, dtype=np.float64) for one in (conversations, tokens, squared))
    with np.errstate(divide="ignore", invalid="ignore"):
        index: npt.NDArray[np.float64] = np.where((n > 0) & (xx > 0), x**2 / (n * xx), np.nan)
    return index
