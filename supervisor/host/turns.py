"""How long the loop's turns take: measured where it waits anyway, so that an idle daemon is not woken for it."""

from __future__ import annotations

import select
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor import clock

if TYPE_CHECKING:
    from selectors import SelectorKey

BLOCKED = 0.0001
"""Seconds: a wait that took longer was one, so that its events had not been there before."""


MINUTE = 60.0
FD_SETSIZE = 1024
"""Descriptors from there on are none of select(2)'s."""


def _to_nobody(_turn: float) -> None:
    """Until somebody wants to hear."""


class Turns(selectors.EpollSelector):
    """The selector of the daemon's loop. ``heard`` gets the seconds of each turn: from one wait's end to the next's
    beginning, which is as long as whatever happened meanwhile had to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: Callable[[float], None] = _to_nobody
        self.pending_since = self._woke_at = clock.now()
        self._ran: tuple[float, ...] = (self._woke_at,)

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """As epoll does. Then ``pending_since`` is the earliest instant at which what is returned may have happened:
        now, if it had to be waited for, else when we last looked."""
        waits_at = clock.now()
        self.heard(waits_at - self._woke_at)
        found = self._wait(timeout, waits_at)
        now = clock.now()
        self.pending_since = now if now - waits_at > BLOCKED else self._woke_at
        self._ran = (now, waits_at, self._woke_at)
        self._woke_at = now
        return found

    def _wait(self, timeout: float | None, now: float) -> list[tuple[SelectorKey, int]]:
        """epoll_wait(2) takes whole milliseconds, so that a timer would be half a one late at every time: what is left
        of the last one is waited for by select(2)."""
        if timeout is None or not 0 < timeout < MINUTE or self.fileno() >= FD_SETSIZE:
            return super().select(timeout)
        found = super().select(max(timeout - 0.001, 0.0))
        left = now + timeout - clock.now()
        if found or left <= 0:
            return found
        select.select((self,), (), (), left)
        return super().select(0)

    def ran(self, by: float) -> float:
        """The last instant up to ``by`` at which the loop is known to have been running; -inf if that was long ago."""
        return next((at for at in self._ran if at <= by), float("-inf"))
