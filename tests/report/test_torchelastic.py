"""torchelastic's own words for what happens: its event records and its metrics."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from supervisor.core import events
from supervisor.core.groups import Arrival, Groups
from supervisor.core.messages import ErrorReport
from supervisor.plan import RendezvousRules, RestartRules, WatchdogRules
from supervisor.premises import Unusable, appended
from supervisor.report.torchelastic import TorchElastic
from tests.stories.story import (
    NO_PAUSE,
    Happening,
    Story,
    asked_to_stop,
    exited,
    formed,
    gone,
    job,
    job_ended,
    killed,
    met,
    read_anew,
    running,
    silent,
    started,
    up,
)


class Told:
    """A story, and what is told of it in torch's words."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.lines: list[bytes] = []
        self.metrics: list[bytes] = []
        self.teller = TorchElastic(
            story.state.plan,
            lambda: self.state().groups,
            hostname="box.example.org",
            events=self.lines.append,
            metrics=self.metrics.append,
        )

    def state(self) -> Groups:
        return self.story.state

    def happen(self, at: float, *happenings: Happening | Arrival) -> None:
        for one in happenings:
            self.story.happen(at, one)
            for event in self.story.said:
                self.teller.observe(event)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def states(self) -> list[tuple[str, str, int | None]]:
        told = [(one["source"], one["metadata"]) for one in self.records]
        return [(source, metadata["state"], metadata["global_rank"]) for source, metadata in told]

    def put(self) -> dict[str, str]:
        lines = b"".join(self.metrics).decode().splitlines()
        return dict(line.partition("]: ")[2].split("=") for line in lines)


def test_a_run_that_recovers_has_an_event_for_every_end() -> None:
    told = Told(Story(job(workers=2, watchdog=WatchdogRules(timer_file=False))))
    told.happen(0.0, up(), formed(), started(0), started(1))
    told.lines.clear()
    error = ErrorReport("ValueError: nan", "Traceback ...", 1795349042)
    told.happen(5.0, exited(1, 3, error=error), gone(1), killed(0, 15), gone(0))
    assert told.states() == [("WORKER", "FAILED", 1), ("WORKER", "TERMINATED", 0)]
    failed = told.records[0]["metadata"]
    assert failed["hostname"] == "box.example.org", "whatever this host is called in the configuration"
    assert json.loads(failed["raw_error"]) == {
        "message": {
            "message": "ValueError: nan",
            "extraInfo": {"py_callstack": "Traceback ...", "timestamp": "1795349042"},
        }
    }
    assert json.loads(failed["metadata"]) == {
        "group_world_size": 1, "entry_point": "job", "local_rank": 1, "role_rank": 1, "role_world_size": 2,
        "exit_code": 3, "worker_pid": 1001,
    }  # fmt: skip
    assert failed["agent_restarts"] == 0, "the restart that it leads to is not used yet, as in torch"
    assert told.put()["workers.job.remaining_restarts"] == "3"
    assert told.put()["workers.job.failed"] == "1"
    told.happen(7.0, formed(), started(0), started(1))
    assert told.records[-1]["metadata"]["agent_restarts"] == 1
    assert told.put()["workers.job.remaining_restarts"] == "2"


def test_of_several_hosts_each_tells_which_it_is_and_of_how_many() -> None:
    rules = RendezvousRules("static", hosts=2, node_rank=1)
    told = Told(Story(job(workers=1, rendezvous=rules, restart=RestartRules(max_restarts=0))))
    told.happen(0.0, up(), met(0), started(0), exited(0, 3), gone(0))
    told.happen(6.0, job_ended("exited with code 3", 3))
    metadata = [one["metadata"] for one in told.records if one["metadata"]["state"] != "RUNNING"]
    places = [(one["state"], one["group_rank"], json.loads(one["metadata"])["group_world_size"]) for one in metadata]
    assert places == [
        ("RENDEZVOUS", None, None), ("ASSIGN_WORKER_RANKS", None, None),
        ("START", 1, 2), ("FAILED", 1, 2), ("FAILED", 1, 2),
    ]  # fmt: skip


def test_a_failure_by_a_signal_has_it_as_its_negative_exit_code() -> None:
    told = Told(running(job(workers=2, restart=RestartRules(max_restarts=0))))
    told.happen(5.0, killed(1, signal.SIGRTMIN + 3), gone(1), killed(0, signal.SIGTERM), gone(0))
    codes = [json.loads(one["metadata"]["metadata"])["exit_code"] for one in told.records if one["source"] == "WORKER"]
    assert codes == [-(signal.SIGRTMIN + 3), None], "of who was stopped torch tells none"


def test_timers_are_told_of_in_torchs_words() -> None:
    """From the first start of an attempt to its end; who has no signal is not said to be killed."""
    told = Told(Story(job(watchdog=WatchdogRules(timer_file=True), restart=RestartRules(max_restarts=0))))
    told.happen(0.0, up(), formed(), started(0))
    reported = events.timer_reported(1.0, events.Who("job", 0, 0, 0), 1000, "load", "did not release it")
    told.teller.observe(reported)
    told.happen(2.0, silent(0, "did not release the timer", "timer", signal.SIGTERM, name="step"))
    told.happen(3.0, killed(0, signal.SIGTERM), gone(0))
    of_timers = [one for one in told.records if one["metadata"]["state"] == "RUNNING"]
    details = [json.loads(one["metadata"]["metadata"]) for one in of_timers]
    assert [one["name"] for one in of_timers] == [one["watchdog_event"] for one in details] == [
        "watchdog started", "timer expired", "timer expired", "kill worker process", "watchdog stopped",
    ]  # fmt: skip
    assert [one.get("signal") for one in details] == [None, "0", "15", "15", None]
    assert [one.get("scope_id") for one in details] == [None, "load", "step", "step", None]
    assert details[2].keys() == {"watchdog_event", "worker_pid", "scope_id", "expiration_time", "signal"}
    assert "duration_ms" not in of_timers[0]["metadata"]
    names = [one["name"].removeprefix("torchelastic.worker.status.") for one in told.records]
    assert names.index("watchdog started") + 1 == names.index("START")
    assert names[-2:] == ["watchdog stopped", "FAILED"]


def test_a_restart_of_one_rank_ends_no_watch_over_the_others() -> None:
    rules = RestartRules(max_restarts=1, scope="worker", backoff=NO_PAUSE)
    told = Told(Story(job(workers=2, watchdog=WatchdogRules(timer_file=True), restart=rules)))
    told.happen(0.0, up(), formed(), started(0), started(1))
    told.happen(2.0, exited(1, 3), gone(1))
    names = [one["name"] for one in told.records]
    assert "torchelastic.worker.status.FAILED" in names
    assert "watchdog stopped" not in names


def test_a_group_without_torchs_timers_has_no_events_of_them() -> None:
    told = Told(running(job()))
    told.happen(5.0, exited(0), gone(0))
    assert "RUNNING" not in [one["metadata"]["state"] for one in told.records]


def test_a_run_that_fails_is_accounted_for_as_torch_does() -> None:
    told = Told(running(job(restart=RestartRules(max_restarts=0))))
    told.happen(5.0, exited(0, 3), gone(0))
    assert told.states() == [("WORKER", "FAILED", 0), ("AGENT", "FAILED", None)]
    account = {name: value for name, value in told.put().items() if name.startswith("workers.")}
    assert account == {
        "workers.job.remaining_restarts": "0", "workers.job.failed": "1", "workers.job.flakiness": "100",
        "workers.job.run_total": "1", "workers.job.run_success_with_retries": "0",
        "workers.job.run_success_no_retries": "0", "workers.job.run_failed_with_retries": "0",
        "workers.job.run_failed_no_retries": "1",
    }  # fmt: skip


def test_a_success_without_retries_is_not_flaky() -> None:
    told = Told(running(job(workers=2, restart=RestartRules(max_restarts=3))))
    told.happen(5.0, exited(0), exited(1), gone(0), gone(1))
    assert told.states() == [("WORKER", "SUCCEEDED", 0), ("WORKER", "SUCCEEDED", 1), ("AGENT", "SUCCEEDED", None)]
    put = told.put()
    assert (put["workers.job.flakiness"], put["workers.job.run_success_no_retries"]) == ("0", "1")
    assert put["SimpleElasticAgent.run.success"] == "1"


@pytest.mark.parametrize(
    ("restarts", "used", "succeeds", "flakiness", "way"),
    [
        (10, 7, True, "63", "run_success_with_retries"),
        (0, 0, True, "0", "run_success_no_retries"),
        (2, 2, True, "66", "run_success_with_retries"),
        (2, 2, False, "100", "run_failed_with_retries"),
        (0, 0, False, "100", "run_failed_no_retries"),
    ],
)
def test_how_flaky_a_run_was_and_which_of_four_ways_it_went(
    restarts: int, used: int, succeeds: bool, flakiness: str, way: str
) -> None:
    """The numbers of torch's ``test_record_flakiness_metric`` and ``test_record_metrics_*``."""
    told = Told(running(job(restart=RestartRules(max_restarts=restarts, backoff=NO_PAUSE))))
    for number in range(used):
        told.happen(float(number + 1), exited(0, 3), gone(0), formed(), started(0))
    told.happen(100.0, exited(0, 0 if succeeds else 3), gone(0))
    put = told.put()
    assert put["workers.job.flakiness"] == flakiness
    ways = [f"run_{end}_{retries}_retries" for end in ("success", "failed") for retries in ("with", "no")]
    assert [one for one in ways if put[f"workers.job.{one}"] == "1"] == [way]


def test_a_run_that_is_called_off_has_failed_in_torchs_words_and_is_not_accounted_for() -> None:
    told = Told(running(job()))
    told.happen(5.0, asked_to_stop(), exited(0), gone(0))
    assert told.states() == [("WORKER", "TERMINATED", 0), ("AGENT", "FAILED", None)]
    assert "workers.job.run_total" not in told.put()
    assert told.put()["workers.job.stopped"] == "1"


def test_lines_that_the_disk_does_not_take_are_handed_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[bytes] = []
    append = appended(str(tmp_path / "below" / "events"), lost.append)
    append(b"one\n")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        append(b"two\n")
    append(b"three\n")
    assert (tmp_path / "below" / "events").read_bytes() == b"one\nthree\n"
    assert lost == [b"two\n"]


def test_a_place_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(Unusable, match="cannot be written"):
        appended(str(tmp_path / "full"), print)


def test_a_group_that_a_reload_has_taken_away_is_told_of_when_it_is_gone() -> None:
    told = Told(running(job("a", workers=1), job("b", workers=1)))
    told.happen(4.0, exited(0, 1, of="a"))
    told.happen(5.0, read_anew(job("b", workers=1)), gone(0, of="a"))
    assert "a" not in told.state().groups
    assert told.states()[-1] == ("AGENT", "FAILED", None)


def test_a_group_that_a_reload_has_taken_away_before_it_was_anything_is_passed_over() -> None:
    told = Told(Story(job("a"), job("b", depends_on={"a": "succeeded"})))
    told.happen(0.0, up())
    told.happen(1.0, read_anew(job("a")))
    assert "b" not in told.state().groups
    assert told.states() == []
