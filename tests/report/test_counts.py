"""What is counted of the events, before anybody imports the metrics library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from supervisor.core import events
from supervisor.core.events import Event, Who
from supervisor.core.messages import ExitStatus
from supervisor.report.counts import PERIODS, Counts, Histogram


def total(histogram: Histogram) -> int:
    return sum(histogram.counts)


def counted(*told: Event) -> Counts:
    counts = Counts()
    for event in told:
        counts.observe(event)
    return counts


def test_ends_are_counted_by_who_ended_them_and_how() -> None:
    who = Who("trainer", 0, 0, 0)
    three = events.worker_exited(1.0, who, 1, ExitStatus(3), "itself", 1.0)
    killed = events.worker_exited(1.0, who, 1, ExitStatus(None, 9), "outside", 1.0)
    well = events.worker_exited(1.0, who, 1, ExitStatus(0), "itself", 1.0)
    assert counted(three, three, killed, well).worker_exits == {
        ("trainer", "itself", "3", ""): 2,
        ("trainer", "outside", "", "SIGKILL"): 1,
        ("trainer", "itself", "0", ""): 1,
    }


def test_restarts_are_counted_by_cause() -> None:
    exit = events.group_restarting(1.0, "trainer", 0, "rank 0 exited with code 3", "exit", 2, 0)
    signal = events.group_restarting(1.0, "trainer", 1, "rank 0 was killed", "signal", 1, 0, rank=0)
    assert counted(exit, signal, exit).restarts == {("trainer", "exit"): 2, ("trainer", "signal"): 1}


def test_the_steps_of_a_restart_are_measured_one_by_one() -> None:
    counts = counted(
        events.group_starting(0.0, "trainer", 0, 2),
        events.group_started(1.0, "trainer", 0, 2, 1.0),
        events.group_ready(1.5, "trainer", 0, 1.5),
        events.group_restarting(10.0, "trainer", 0, "why", "exit", 2, 4.0),
        events.group_stopping(10.0, "trainer", 0, 1, 15, "why"),
        events.group_backing_off(12.0, "trainer", 0, 4.0, "why"),
        events.group_starting(16.0, "trainer", 1, 2),
        events.group_started(17.0, "trainer", 1, 2, 1.0),
        events.group_ready(25.0, "trainer", 1, 9.0),
    )
    assert {step: histogram.sum for (_, step), histogram in counts.restart.items()} == {
        "stop": 2.0,
        "backoff": 4.0,
        "start": 1.0,
        "ready": 8.0,
    }
    assert (total(counts.start["trainer"]), counts.start["trainer"].sum) == (2, 2.0)


def test_a_restart_without_a_pause_has_no_backoff() -> None:
    counts = counted(
        events.group_restarting(10.0, "trainer", 0, "why", "exit", 2, 0),
        events.group_starting(12.0, "trainer", 1, 2),
    )
    assert {key: histogram.sum for key, histogram in counts.restart.items()} == {("trainer", "stop"): 2.0}


def test_a_restart_of_one_worker_or_one_that_is_called_off_has_no_further_steps() -> None:
    one = events.group_restarting(10.0, "trainer", 0, "why", "exit", 2, 0, rank=1)
    gang = events.group_restarting(10.0, "trainer", 0, "why", "exit", 2, 9)
    off = events.group_stopped(11.0, "trainer", 0, 1.0, "SIGTERM")
    lost = events.group_failed(11.0, "trainer", 0, "why", 3)
    later = events.group_starting(20.0, "trainer", 1, 2)
    for told in ((one, later), (gang, off, later), (gang, lost, later)):
        assert not counted(*told).restart


def test_a_stop_is_measured() -> None:
    stop = counted(events.group_stopped(11.0, "trainer", 0, 0.25, "SIGTERM")).stop["trainer"]
    assert (total(stop), stop.sum) == (1, 0.25)


def test_other_events_count_nothing() -> None:
    counts = counted(events.daemon_ready(1.0, 1.0), Event("group.ready", "info", 1.0, "of no group"))
    assert not counts.start
    assert not counts.restart


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.10001, 1.0, 5.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 0.05 + 0.1 + 0.10001 + 1.0 + 5.0


def test_bounds_ascend() -> None:
    assert list(PERIODS) == sorted(set(PERIODS))


def test_what_the_daemon_imports_at_its_start_is_light() -> None:
    """Neither the counters nor the sockets nor the records bring in what may come only after the first worker."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from supervisor.report import counts, listen, log\n"
        "heavy = {'aiohttp', 'prometheus_client', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", script, root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
