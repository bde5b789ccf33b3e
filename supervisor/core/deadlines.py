"""Many deadlines, each under a key, and the nearest of them: instants in, keys out.

Setting one later, or dropping it, is a write to a dict: a heap holds at most what was once the nearest instant of each
key, and an entry that no longer tells the truth is put right when it comes to the top.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_SLACK = 64
"""So many entries that say nothing any more are never worth tidying up."""


class Deadlines(Generic[Key]):
    """Instants by key, in monotonic seconds. Ten thousand cost no more to keep than one, and nothing while idle."""

    __slots__ = ("_at", "_heap", "_number", "_queued", "late_by")

    def __init__(self) -> None:
        self._at: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._queued: dict[Key, float] = {}  # the instant of the one entry of each key that counts
        self._number = 0  # keys need not be comparable
        self.late_by = 0.0
        """Seconds that all have been put off by so far. Instants are kept without it, so that this costs nothing."""

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: Key, at: float) -> None:
        """The key is due ``at``, whenever it was due before."""
        at -= self.late_by
        self._at[key] = at
        queued = self._queued.get(key)
        if queued is None or at < queued:
            self._push(key, at)

    def drop(self, key: Key) -> None:
        """The key is not due any more, if it was."""
        if self._at.pop(key, None) is not None and len(self._heap) > 2 * len(self._at) + _SLACK:
            self._tidy()

    def drop_all(self, keys: Iterable[Key]) -> None:
        """None of the keys is due any more, for a fraction of what it costs to drop each."""
        for key in keys:
            self._at.pop(key, None)
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._tidy()

    def at(self, key: Key) -> float | None:
        """When the key is due."""
        at = self._at.get(key)
        return None if at is None else at + self.late_by

    def nearest(self) -> float | None:
        """The instant of the key that is due first; None when there is none."""
        while self._heap:
            at, _, key = self._heap[0]
            due = self._at.get(key)
            if self._queued.get(key) != at:  # set earlier since, and that entry counts
                heappop(self._heap)
            elif due is None:
                heappop(self._heap)
                del self._queued[key]
            elif due != at:
                self._number += 1
                heapreplace(self._heap, (due, self._number, key))
                self._queued[key] = due
            else:
                return at + self.late_by
        return None

    def pop(self, now: float) -> tuple[Key, float] | None:
        """Take out the key that is due first, with its instant, if that has come; else None."""
        at = self.nearest()
        if at is None or at > now:
            return None
        _, _, key = heappop(self._heap)
        del self._queued[key], self._at[key]
        return key, at

    def put_off(self, by: float) -> None:
        """Everything that is due now is due ``by`` seconds later."""
        self.late_by += by

    def clear(self) -> None:
        """Nothing is due any more."""
        self._at.clear()
        self._tidy()

    def _push(self, key: Key, at: float) -> None:
        self._number += 1
        heappush(self._heap, (at, self._number, key))
        self._queued[key] = at
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._tidy()

    def _tidy(self) -> None:
        self._heap = [(at, number, key) for number, (key, at) in enumerate(self._at.items())]
        heapify(self._heap)
        self._number = len(self._heap)
        self._queued = dict(self._at)
