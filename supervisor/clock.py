"""The monotonic clock, and the one place where an instant becomes a date.

Inside, every instant is ``CLOCK_MONOTONIC`` in seconds. Records carry UTC dates, computed here at the moment of
writing, so that a stepped wall clock changes what records say and nothing else.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> float:
    """This instant, in monotonic seconds (the time base of asyncio's loops as well)."""
    return time.monotonic()


def wall(at: float) -> float:
    """Seconds since the epoch of a monotonic instant, by the wall clock as it is set now."""
    return time.time() - time.monotonic() + at


def rfc3339(at: float) -> str:
    """A monotonic instant as RFC 3339 in UTC with microseconds: ``2026-11-22T17:02:03.000004Z``."""
    # Five times as fast as strftime(3), and there is a date in every record
    return datetime.fromtimestamp(wall(at), UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def words(seconds: float) -> str:
    """A duration as people say it: ``350 ms``, ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = int(seconds)
    for unit, size, smaller, part in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if whole < size * (60 if unit == "min" else 24) or unit == "d":
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError("unreachable")
