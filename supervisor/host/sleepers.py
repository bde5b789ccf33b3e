"""Workers in uninterruptible sleep: who has been held by the kernel for longer than a limit, and is let go again.

Nothing tells of it, so it has to be looked for: four times within the limit, and only where there is one. A thread that
was let go between two looks has run since, which its count of context switches shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import NamedTuple

from supervisor import clock
from supervisor.core.messages import Worker
from supervisor.host.threads import Thread, family, switches, where

LOOKS = 4
"""Looks within the limit."""

SLICE = 0.003
"""Seconds of looking at a stretch before the loop may serve others."""


class _Sleep(NamedTuple):
    """A thread sleeps at least since then. Who it is, and how often it had run, tell this sleep from the next."""

    since: float
    identity: tuple[int, int]
    switches: str


class _Watched:
    """A worker under watch."""

    __slots__ = ("held", "pid", "sleeps")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.held = False
        self.sleeps: dict[int, _Sleep] = {}


class Sleepers:
    """The workers of one group, looked at while there are any. Lives in one event loop; has to be closed."""

    def __init__(
        self, limit: float, held: Callable[[Worker, int, str], None], let_go: Callable[[Worker], None]
    ) -> None:
        """``limit`` in seconds; 0: there is none. ``held`` is told once of each worker that is, with the process and
        where it waits; ``let_go`` when it is not any more."""
        self._limit = limit
        self._held = held
        self._let_go = let_go
        self._watched: dict[Worker, _Watched] = {}
        self._looking: Iterator[None] = iter(())
        self._next: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def looks(self) -> bool:
        """Whether it will look again: as long as there is anybody."""
        return self._next is not None

    def started(self, worker: Worker, pid: int) -> None:
        """The worker's own process is ``pid``, which stays its number until ``ended``."""
        self._watched[worker] = _Watched(pid)
        if self._next is None and self._limit:
            self._look_after(self._limit / LOOKS)

    def ended(self, worker: Worker) -> None:
        """Its own process has been waited for: what is left of it is looked after by others."""
        self._watched.pop(worker, None)
        if not self._watched:
            self.close()

    def go_by(self, limit: float) -> None:
        """From here on the limit is so many seconds; 0: nobody is held, however long it sleeps."""
        self._limit = limit
        self.close()
        if not limit:
            for worker in [worker for worker, watched in self._watched.items() if watched.held]:
                self._watched[worker].held = False
                self._let_go(worker)
        elif self._watched:
            self._look_after(limit / LOOKS)

    def close(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._looking = iter(())

    def _look_after(self, pause: float) -> None:
        self._looking = self._look_at_all()
        self._next = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        looking, until = self._looking, clock.now() + SLICE
        for _ in looking:
            if self._looking is not looking:  # closed, by what the last one led to
                return
            if clock.now() >= until:
                self._next = self._loop.call_soon(self._look)
                return
        if self._looking is looking:
            self._look_after(self._limit / LOOKS)

    def _look_at_all(self) -> Iterator[None]:
        for worker, watched in list(self._watched.items()):
            if self._watched.get(worker) is watched:
                yield from self._look_at(worker, watched)

    def _look_at(self, worker: Worker, watched: _Watched) -> Iterator[None]:
        sleeps: dict[int, _Sleep] = {}
        held: Thread | None = None
        for thread in family(watched.pid):
            if thread.state == "D":
                sleep, earlier = _sleep(thread), watched.sleeps.get(thread.tid)
                if earlier is not None and earlier[1:] == sleep[1:]:
                    if held is None and sleep.since - earlier.since >= self._limit:
                        held = thread
                    sleep = earlier
                sleeps[thread.tid] = sleep
            yield
            if self._watched.get(worker) is not watched:  # it has ended meanwhile, and its number may be another's
                return
        watched.sleeps = sleeps
        if held is not None and not watched.held:
            watched.held = True
            self._held(worker, held.pid, where(held))
        elif held is None and watched.held:
            watched.held = False
            self._let_go(worker)


def _sleep(thread: Thread) -> _Sleep:
    return _Sleep(clock.now(), thread.seen.identity, switches(thread))
