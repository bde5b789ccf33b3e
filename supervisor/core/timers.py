"""torch's timers, by process and scope: which are set, and which are due.

A request names a process by its number, and anybody may have written it. Whose it is, and whether it still is, must be
proved by whoever acts on an expired timer, at that time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from supervisor.core.deadlines import Deadlines

TIMERS = 1 << 15
"""Timers at a time. More are refused: another process number costs a writer nothing."""

NESTED = re.compile(r"contextlib\.py#[0-9]+\Z")
"""The scope of every ``expires()`` without one: torch names its caller, which is contextlib's ``__enter__``."""

DEEP = 64
"""Timers at a time in one nested scope."""


class TimerRequest(NamedTuple):
    """A line of torch's FileTimerClient. ``at`` is monotonic, None for a release; a ``signal`` of 0 only reports."""

    pid: int
    scope: str
    at: float | None
    signal: int


@dataclass(frozen=True, slots=True)
class TimerExpired:
    """A timer was due ``at``. ``set_at``: a process younger than that is not the one that set it."""

    pid: int
    scope: str
    signal: int
    set_at: float
    at: float


_Key = tuple[int, str]
"""The process and the scope. Not by name: one is made for each request, and a thousand when a process is judged."""


class _Timer(NamedTuple):
    """``at`` is kept as ``Deadlines`` keeps it: without what all have been put off by."""

    at: float
    signal: int
    set_at: float


class Timers:
    """The timers that are set; ``len`` says how many. ``refused`` counts those that were one too many."""

    def __init__(self) -> None:
        self.refused = 0
        self._count = 0
        self._deadlines: Deadlines[_Key] = Deadlines()
        self._set: dict[int, dict[str, list[_Timer]]] = {}

    def __len__(self) -> int:
        return self._count

    def take(self, request: TimerRequest, now: float) -> None:
        """Set or release a timer. One set again is due at its new time only, except where torch gives all one name.

        There the timer that is due first is taken to be the one that is released: what remains is never due sooner
        than it ought to be, so nobody is ended for another's name.
        """
        pid, scope, at, signal = request
        key = (pid, scope)
        running = self._set.get(pid, {}).get(scope)
        if at is None:
            if running is not None:
                self._finish(key, running)
            return
        if running is not None and not NESTED.search(scope):
            self._count -= len(running)
            running.clear()
        if self._count >= TIMERS or (running is not None and len(running) >= DEEP):
            self.refused += 1
            return
        if running is None:
            running = self._set.setdefault(pid, {})[scope] = []
        heappush(running, _Timer(at - self._deadlines.late_by, signal, now))
        self._count += 1
        self._set_first(key, running)

    def forget(self, pid: int) -> None:
        """The process has ended, or has been judged: it has no timers any more."""
        scopes = self._set.pop(pid, None)
        if scopes is not None:
            self._count -= sum(map(len, scopes.values()))
            self._deadlines.drop_all([(pid, scope) for scope in scopes])

    def clear(self) -> None:
        """No process has any."""
        self._set.clear()
        self._deadlines.clear()
        self._count = 0

    def nearest(self) -> float | None:
        """When the first is due; None when none is set."""
        return self._deadlines.nearest()

    def pop(self, now: float) -> TimerExpired | None:
        """Take out the timer that is due first, if it is. One with a signal takes all others of its process along."""
        due = self._deadlines.pop(now)
        if due is None:
            return None
        key, at = due
        pid, scope = key
        running = self._set[pid][scope]
        timer = running[0]
        if timer.signal > 0:
            self.forget(pid)
        else:
            self._finish(key, running)
        return TimerExpired(pid, scope, timer.signal, timer.set_at, at)

    def put_off(self, by: float) -> None:
        """All that are set are due so many seconds later."""
        self._deadlines.put_off(by)

    def _finish(self, key: _Key, running: list[_Timer]) -> None:
        """The first of these timers is over."""
        heappop(running)
        self._count -= 1
        if running:
            self._set_first(key, running)
            return
        self._deadlines.drop(key)
        pid, scope = key
        scopes = self._set[pid]
        del scopes[scope]
        if not scopes:
            del self._set[pid]

    def _set_first(self, key: _Key, running: list[_Timer]) -> None:
        self._deadlines.set(key, running[0].at + self._deadlines.late_by)
