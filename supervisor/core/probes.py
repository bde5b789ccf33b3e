"""What a probe's answers amount to, and when to ask again. Answers in, (verdict, pause) out."""

from __future__ import annotations

from typing import NamedTuple

from supervisor.plan import Probe

EAGER = 0.1
"""Seconds between the first two questions to a worker. It doubles up to the interval, until the worker is ready: one
that comes up within a second need not be waited for any longer."""

_DOUBLINGS = 40  # at most: beyond any interval, and short of any overflow


class Tally(NamedTuple):
    """The answers so far. ``ready``: what they have made of the worker, None at first.

    ``passed``: what the last one was, ``in_a_row`` how many were so since one was not.
    """

    ready: bool | None = None
    passed: bool = False
    in_a_row: int = 0


def count(probe: Probe, tally: Tally, passed: bool) -> tuple[Tally, bool]:
    """The tally with one more answer, and whether that has just made the worker ready, or not ready.

    A worker that is asked for the first time is in neither state. That it is not ready is not said before it has had
    the time of an interval to come up.
    """
    in_a_row = tally.in_a_row + 1 if passed is tally.passed else 1
    tally = Tally(tally.ready, passed, in_a_row)
    enough = probe.rise if passed else probe.fall
    if tally.ready is passed or in_a_row < enough or (not passed and pause(probe, tally) < probe.interval):
        return tally, False
    return tally._replace(ready=passed), True


def pause(probe: Probe, tally: Tally) -> float:
    """Seconds from the last question to the next one."""
    if tally.ready is not None:
        return probe.interval
    return min(probe.interval, EAGER * 2.0 ** min(tally.in_a_row - 1, _DOUBLINGS))
