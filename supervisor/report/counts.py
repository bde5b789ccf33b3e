"""What has happened since the start, as plain numbers: cheap to add to, and read by ``metrics`` when somebody asks.

Apart from ``metrics`` so that events told before the metrics library is imported are counted as well.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

from supervisor.core.events import Event

PERIODS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Bucket bounds in seconds for what workers take their time for: starting, stopping."""


MOMENTS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""For what the daemon itself takes its time for."""


class Watched(Protocol):
    """What watches over the workers of one group."""

    @property
    def timers(self) -> int:
        """How many are set."""

    @property
    def heartbeats(self) -> int:
        """How many have been heard."""

    @property
    def refusals(self) -> Mapping[str, int]:
        """How much of what was said was not taken, by what it was: ever the same few keys."""


class Histogram:
    """How many values fell into each bucket; ``counts`` has one more entry than ``bounds``, for what is above."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value; a bucket's upper bound belongs to it (Prometheus' ``le``)."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


def _periods() -> Histogram:
    return Histogram(PERIODS)


def _moments() -> Histogram:
    return Histogram(MOMENTS)


class Counts:
    """Counters and histograms, each a dict from label values to a number; the names are those of the metrics."""

    def __init__(self) -> None:
        self.restarts: defaultdict[tuple[str, str], int] = defaultdict(int)  # group, reason
        self.worker_exits: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)  # group, by, code, signal
        self.stop: defaultdict[str, Histogram] = defaultdict(_periods)  # group
        self.start: defaultdict[str, Histogram] = defaultdict(_periods)  # group
        self.restart: defaultdict[tuple[str, str], Histogram] = defaultdict(_periods)  # group, step
        self.log_bytes: defaultdict[tuple[str, str], int] = defaultdict(int)  # group, stream
        self.log_dropped_bytes: defaultdict[str, int] = defaultdict(int)  # group
        self.http_requests: defaultdict[tuple[str, int], int] = defaultdict(int)  # path, code
        self.detection: defaultdict[str, Histogram] = defaultdict(_moments)  # group
        self.loop_lag = _moments()
        self.timers_expired: defaultdict[str, int] = defaultdict(int)  # group
        self.rendezvous: defaultdict[str, Histogram] = defaultdict(_periods)  # group
        self.watched: Mapping[str, Watched] = {}  # group
        self.hooks: defaultdict[tuple[str, str], int] = defaultdict(int)  # hook, outcome
        self.events_dropped = 0
        self._restarting: dict[str, tuple[str, float]] = {}  # group -> the step it is in, and since when
        self._kinds = {
            "worker.exited": self._worker_exited,
            "group.restarting": self._group_restarting,
            "group.backing_off": self._group_backing_off,
            "group.starting": self._group_starting,
            "group.started": self._group_started,
            "group.ready": self._group_ready,
            "group.stopped": self._group_stopped,
            "group.succeeded": self._group_over,
            "group.failed": self._group_over,
            "timer.expired": self._timer_expired,
            "rendezvous.formed": self._rendezvous_formed,
        }

    def observe(self, event: Event) -> None:
        """Count what an event says; most events say nothing that is counted."""
        kind = self._kinds.get(event.name)
        if kind is not None and event.group is not None:
            kind(event.group, event)

    def _worker_exited(self, group: str, event: Event) -> None:
        fields = event.fields
        code = fields.get("exit_code")
        self.worker_exits[
            group, fields.get("by", ""), "" if code is None else str(code), fields.get("signal") or ""
        ] += 1

    # A restart is stop, backoff, start, ready: each event below ends one step and begins the next.

    def _group_restarting(self, group: str, event: Event) -> None:
        self.restarts[group, event.fields.get("cause", "")] += 1
        if "rank" not in event.fields:  # with it, a single worker restarts and the group goes on
            self._restarting[group] = ("stop", event.at)

    def _group_backing_off(self, group: str, event: Event) -> None:
        self._step(group, "backoff", event.at)

    def _group_starting(self, group: str, event: Event) -> None:
        self._step(group, "start", event.at)

    def _group_started(self, group: str, event: Event) -> None:
        self._step(group, "ready", event.at)
        _lasted(self.start[group], event)

    def _group_ready(self, group: str, event: Event) -> None:
        self._step(group, "", event.at)
        self._restarting.pop(group, None)

    def _group_stopped(self, group: str, event: Event) -> None:
        self._restarting.pop(group, None)
        _lasted(self.stop[group], event)

    def _group_over(self, group: str, _event: Event) -> None:
        self._restarting.pop(group, None)

    def _timer_expired(self, group: str, _event: Event) -> None:
        self.timers_expired[group] += 1

    def _rendezvous_formed(self, group: str, event: Event) -> None:
        _lasted(self.rendezvous[group], event)

    def _step(self, group: str, following: str, at: float) -> None:
        ending = self._restarting.get(group)
        if ending is not None:
            step, since = ending
            self.restart[group, step].observe(at - since)
            self._restarting[group] = (following, at)


def _lasted(histogram: Histogram, event: Event) -> None:
    milliseconds = event.fields.get("duration_ms")
    if milliseconds is not None:
        histogram.observe(milliseconds / 1000)
