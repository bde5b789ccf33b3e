"""An event loop in which time passes only when nothing is left to be done now, and hosts can be held up."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from asyncio.events import Handle, TimerHandle
from collections import deque

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="")
"""On which host this runs; empty: on none of them."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Begins at instant 0. There are no sockets in it, no signals and no threads."""

    _ready: deque[Handle]
    _scheduled: list[TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._held: dict[str, list[Handle]] = {}

    def time(self) -> float:
        return self._now

    def hold(self, who: str) -> None:
        """What is to run on that host waits, as with SIGSTOP, or a machine that is suspended."""
        self._held.setdefault(who, [])

    def release(self, who: str) -> None:
        """It goes on, with all that has become due meanwhile."""
        self._ready.extend(self._held.pop(who, ()))

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)
        if not ready:
            if not scheduled:
                raise AssertionError("nothing will ever happen again")
            self._now = max(self._now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now:
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.cancelled():
                continue
            # get_context, from Python 3.12
            context: contextvars.Context = handle._context  # type: ignore[attr-defined]
            held = self._held.get(context.get(WHO, ""))
            if held is None:
                handle._run()
            else:
                held.append(handle)

    def _write_to_self(self) -> None:
        """Nobody waits in select(2)."""
