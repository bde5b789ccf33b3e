"""How long the loop's turns take: measured where it waits anyway, so that an idle daemon is not woken for it."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor import clock

if TYPE_CHECKING:
    from selectors import SelectorKey

BLOCKED = 0.0001
"""Seconds: a wait that took longer was one, so that its events had not been there before."""


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
        found = super().select(timeout)
        now = clock.now()
        self.pending_since = now if now - waits_at > BLOCKED else self._woke_at
        self._ran = (now, waits_at, self._woke_at)
        self._woke_at = now
        return found

    def ran(self, by: float) -> float:
        """The last instant up to ``by`` at which the loop is known to have been running; -inf if that was long ago."""
        return next((at for at in self._ran if at <= by), float("-inf"))
