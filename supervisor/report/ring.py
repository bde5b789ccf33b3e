"""The last records, kept for those who come late or were away: by number, and no more than so many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from supervisor.core.events import Event

KEPT = 4096
"""A thousand workers that restart are four thousand records: some 4 MB, once they have happened."""


class Ring:
    """Record ``seq`` is in slot ``seq % size`` until another takes its place; numbers may have gaps.

    An event that has not been written as JSON is when the first reader asks for it: until then it costs nothing.
    """

    def __init__(self, write: Callable[[Event, int], bytes], size: int = KEPT) -> None:
        """``write`` gives the line of an event with its number."""
        self.last = 0
        self.epoch = os.urandom(4).hex()
        """Tells this daemon's numbers from those of one before it."""
        self._write = write
        self._slots: list[tuple[int, Event | bytes] | None] = [None] * size
        self._readers: set[Callable[[], None]] = set()

    def add(self, seq: int, record: Event | bytes) -> None:
        """One more, of a higher number than all before."""
        self._slots[seq % len(self._slots)] = seq, record
        self.last = seq
        for wake in self._readers:
            wake()

    @property
    def oldest(self) -> int:
        """The lowest number that may still be here."""
        return max(1, self.last - len(self._slots) + 1)

    def after(self, seq: int) -> Iterator[tuple[int, bytes]]:
        """Numbers and lines of all that is here and higher than ``seq``, in order."""
        for number in range(max(seq + 1, self.oldest), self.last + 1):
            place = number % len(self._slots)
            slot = self._slots[place]
            if slot is None or slot[0] != number:
                continue
            line = slot[1]
            if isinstance(line, Event):
                line = self._write(line, number)
                self._slots[place] = number, line
            yield number, line

    @contextmanager
    def read(self, wake: Callable[[], None]) -> Iterator[None]:
        """Meanwhile ``wake`` is called for every record that is added; it must not raise."""
        self._readers.add(wake)
        try:
            yield
        finally:
            self._readers.discard(wake)
