"""What Prometheus is told: gauges read from the snapshot, counters and histograms from ``Counts``, at each scrape.

Imports prometheus_client, and is therefore imported only after the first workers have been started.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeVar, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from supervisor import __version__
from supervisor.core.health import HostState, Snapshot
from supervisor.core.state import Phase
from supervisor.report.counts import Counts, Histogram
from supervisor.report.look import Look

WORKER_STATES = (
    "pending", "starting", "ready", "unready", "uninterruptible", "draining", "stopping", "stopped", "backing_off",
    "exited", "succeeded", "failed", "unkillable",
)  # fmt: skip
"""Every ``WorkerView.state``: each is told, so that a series does not vanish when it comes to nothing."""


class Metrics(Collector):
    """All families under ``rankd_``, in a registry of their own."""

    def __init__(self, look: Look, counts: Counts, started_at: float) -> None:
        """``started_at`` is when the daemon started, in monotonic seconds."""
        self._look = look
        self._counts = counts
        self._started_at = started_at
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type: OpenMetrics if the client's ``Accept`` asks for it, else Prometheus' own."""
        try:
            encode, content_type = choose_encoder(accept if accept.isascii() else "")
        except (TypeError, ValueError):  # it asks for a version that is no version
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        snapshot = self._look()
        yield from self._now(snapshot)
        yield from self._since_the_start()

    def _now(self, snapshot: Snapshot) -> Iterator[Metric]:
        build = GaugeMetricFamily("rankd_build_info", "What is running.", labels=["version", "python"])
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        yield GaugeMetricFamily(
            "rankd_up_seconds", "Seconds since the daemon started.", value=snapshot.at - self._started_at
        )
        ready = GaugeMetricFamily("rankd_group_ready", "1 when the group is ready.", labels=["group"])
        phase = GaugeMetricFamily("rankd_group_phase", "1 for the phase the group is in.", labels=["group", "phase"])
        workers = GaugeMetricFamily("rankd_workers", "Workers on this host by state.", labels=["group", "state"])
        left = GaugeMetricFamily("rankd_restarts_remaining", "Restarts left; +Inf: no limit.", labels=["group"])
        round = GaugeMetricFamily("rankd_rendezvous_round", "Which rendezvous the group is in.", labels=["group"])
        hosts = GaugeMetricFamily(
            "rankd_rendezvous_hosts", "Hosts in the group's world; 0: none yet.", labels=["group"]
        )
        timers = GaugeMetricFamily("rankd_timers_active", "Timers that workers have set.", labels=["group"])
        for name, view in snapshot.groups.items():
            ready.add_metric([name], view.ready)
            for one in Phase:
                phase.add_metric([name, one.value], view.phase == one.value)
            states = Counter(worker.state for worker in view.workers)
            for state in dict.fromkeys((*WORKER_STATES, *states)):
                workers.add_metric([name, state], states[state])
            left.add_metric([name], math.inf if view.restarts_left is None else view.restarts_left)
            round.add_metric([name], view.round)
            hosts.add_metric([name], view.hosts)
            watched = self._counts.watched.get(name)
            timers.add_metric([name], watched.timers if watched else 0)
        yield from (ready, phase, workers, left, round, hosts, timers)
        yield from _among_hosts(snapshot)

    def _since_the_start(self) -> Iterator[Metric]:
        counts = self._counts
        yield _counter("rankd_restarts_total", "Restarts, by cause.", ["group", "reason"], counts.restarts)
        yield _counter(
            "rankd_worker_exits_total",
            "Ends of workers, by who ended them.",
            ["group", "by", "code", "signal"],
            counts.worker_exits,
        )
        yield _histogram(
            "rankd_detection_seconds",
            "From a worker's end in the kernel, or when it was last seen alive, until it was acted upon.",
            ["group"],
            _single(counts.detection),
        )
        yield _histogram(
            "rankd_loop_lag_seconds",
            "For how long at a time the loop was busy: what happened meanwhile had to wait.",
            [],
            {(): counts.loop_lag},
        )
        yield _histogram(
            "rankd_rendezvous_seconds", "Until a rendezvous was formed.", ["group"], _single(counts.rendezvous)
        )
        yield _counter(
            "rankd_timers_expired_total", "Timers that ended a worker.", ["group"], _single(counts.timers_expired)
        )
        yield _counter(
            "rankd_heartbeats_total",
            "Heartbeats heard.",
            ["group"],
            {(name,): watched.heartbeats for name, watched in counts.watched.items()},
        )
        yield _counter(
            "rankd_refusals_total",
            "What workers or others said to the watchdog and it did not take, by what it was.",
            ["group", "what"],
            {
                (name, what): number
                for name, watched in counts.watched.items()
                for what, number in watched.refusals.items()
            },
        )
        yield _histogram(
            "rankd_stop_seconds", "From the first signal until everything is gone.", ["group"], _single(counts.stop)
        )
        yield _histogram(
            "rankd_start_seconds", "Until every worker of the group runs.", ["group"], _single(counts.start)
        )
        yield _histogram(
            "rankd_restart_seconds",
            "The steps of a group's restart: stop, backoff, start, ready.",
            ["group", "step"],
            counts.restart,
        )
        yield _counter(
            "rankd_log_bytes_total", "Bytes of workers' output taken in.", ["group", "stream"], counts.log_bytes
        )
        yield _counter(
            "rankd_log_dropped_bytes_total",
            "Bytes of workers' output dropped, each time with a mark.",
            ["group"],
            _single(counts.log_dropped_bytes),
        )
        yield _counter(
            "rankd_http_requests_total",
            "Requests to the health listener.",
            ["path", "code"],
            {(path, str(code)): number for (path, code), number in counts.http_requests.items()},
        )
        yield _counter(
            "rankd_hook_records_total",
            "Records for hooks: delivered, failed after all tries, or dropped because too many waited.",
            ["hook", "outcome"],
            counts.hooks,
        )
        yield _counter(
            "rankd_events_dropped_total", "Events that could not be told.", [], {(): counts.events_dropped}
        )  # fmt: skip


T = TypeVar("T")
Key = TypeVar("Key", bound=tuple[str, ...])


def _single(by_group: Mapping[str, T]) -> dict[tuple[str, ...], T]:
    return {(group,): value for group, value in by_group.items()}


def _among_hosts(snapshot: Snapshot) -> Iterator[Metric]:
    """How groups that meet other hosts stand there."""
    here = GaugeMetricFamily(
        "rankd_rendezvous_state", "1 for the state of this host among the others.", labels=["group", "state"]
    )
    everywhere = GaugeMetricFamily(
        "rankd_rendezvous_hosts_by_state",
        "All hosts that are there, from the one that leads.",
        labels=["group", "state"],
    )
    for name, view in snapshot.groups.items():
        if view.rendezvous is None:
            continue
        states = view.rendezvous.states
        for state in get_args(HostState):
            here.add_metric([name, state], view.rendezvous.state == state)
            if states is not None:
                everywhere.add_metric([name, state], states.get(state, 0))
    yield from (here, everywhere)


def _counter(name: str, words: str, labels: list[str], values: Mapping[Key, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, words, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, words: str, labels: list[str], values: Mapping[Key, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, words, labels=labels)
    for key, histogram in values.items():
        family.add_metric(key, list(_buckets(histogram)), sum_value=histogram.sum)
    return family


def _buckets(histogram: Histogram) -> Iterable[tuple[str, float]]:
    """Pairs of upper bound and how many values are at or below it."""
    bounds = (*(str(bound) for bound in histogram.bounds), "+Inf")
    return zip(bounds, accumulate(histogram.counts), strict=True)
