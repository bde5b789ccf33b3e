"""What anybody can bring about as often as he likes is told so often and no more, with how often it was besides."""

from __future__ import annotations

WITHIN = 10.0
"""Seconds."""

MOST = 10
"""That are told within these."""


class Sparing:
    """One thing that happens: whether it is to be told this time."""

    __slots__ = ("_began_at", "_left_out", "_told")

    def __init__(self) -> None:
        self._began_at = float("-inf")
        self._told = 0
        self._left_out = 0

    def tell(self, now: float) -> int | None:
        """How many were left out since the last that was told; None to leave this one out."""
        if now - self._began_at >= WITHIN:
            self._began_at, self._told = now, 0
        if self._told >= MOST:
            self._left_out += 1
            return None
        self._told += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
