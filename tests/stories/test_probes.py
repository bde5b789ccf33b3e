"""A worker is ready when its probe says so; one that is not any more is told of, and with ``liveness`` has failed."""

from __future__ import annotations

from supervisor.core.state import Phase
from supervisor.plan import Probe, RestartRules, Rung, StopRules
from tests.stories.story import (
    Story,
    asked_to_stop,
    due,
    exited,
    fired,
    formed,
    gone,
    job,
    killed,
    ready,
    running,
    started,
    unready,
    up,
)

ASKED = Probe(http="http://127.0.0.1:8000/health")
LIVENESS = Probe(http="http://127.0.0.1:8000/health", liveness=True)
ALONE = RestartRules(scope="worker", max_restarts=1)


def states(story: Story) -> list[tuple[str, str]]:
    return [(worker.state, worker.why) for worker in story.view.workers]


def test_a_group_is_ready_when_every_worker_is_found_ready() -> None:
    story = Story(job(workers=2, probe=ASKED)).tell(
        (0.0, up(), "form world 0", "group.starting"),
        (0.0, formed(), "start 0#0 1#0"),
        (0.1, started(0), "", "worker.started"),
        (0.2, ready(0), "", "worker.ready rank=0 source=probe duration_ms=100.0"),
        (0.3, started(1), "", "worker.started; group.started"),
    )
    assert states(story) == [("ready", ""), ("starting", "")]
    assert story.ready.reasons == ("group job is running, 1/2 workers ready: every worker has started",)
    story.tell((0.8, ready(1), "", "worker.ready rank=1; group.ready duration_ms=800.0"), (0.9, ready(1)))
    assert story.ready.ok
    assert [worker.since for worker in story.view.workers] == [0.2, 0.8]


def test_why_a_worker_does_not_become_ready_is_told_and_it_may_go_on_trying() -> None:
    story = running(job(probe=LIVENESS)).tell(
        (5.0, unready(0, "connection refused"), "", "worker.unready rank=0 source=probe"),
    )
    assert states(story) == [("unready", "connection refused")]
    assert story.ready.reasons
    story.tell((60.0, ready(0), "", "worker.ready duration_ms=59999.0; group.ready"))
    assert story.ready.ok


def test_a_worker_that_is_not_ready_any_more_degrades_its_group_until_it_is_again() -> None:
    story = running(job(workers=2, probe=ASKED)).tell(
        (1.0, ready(0), "", "worker.ready"),
        (1.0, ready(1), "", "worker.ready; group.ready"),
        (9.0, unready(1, "busy"), "", "worker.unready rank=1 reason=busy; group.degraded ready=1 workers=2"),
    )
    assert "rank 1 is not ready: busy" in story.ready.reasons[0]
    assert states(story) == [("ready", ""), ("unready", "busy")]
    story.tell(
        (12.0, ready(1), "", "worker.ready duration_ms=3000.0; group.ready duration_ms=3000.0"),
    )
    assert story.ready.ok
    assert story.group.history.used == 0


def test_two_who_are_asked_have_both_to_say_so() -> None:
    story = running(job(probe=ASKED)).tell(
        (1.0, unready(0, "reloads", "notify"), "", "worker.unready source=notify"),
        (2.0, ready(0), ""),
        (3.0, ready(0, "notify"), "", "worker.ready source=notify duration_ms=2999.0; group.ready"),
    )
    assert story.ready.ok


def test_who_runs_without_a_probe_is_ready_until_somebody_says_otherwise() -> None:
    story = running(job()).tell((1.0, unready(0, "reloads", "notify"), "", "worker.unready; group.degraded"))
    story.tell((2.0, ready(0, "notify"), "", "worker.ready; group.ready"))
    assert story.ready.ok


def test_a_failed_liveness_probe_is_a_failure_as_any_other() -> None:
    story = running(job(workers=2, probe=LIVENESS)).tell(
        (1.0, ready(0), "", "worker.ready"),
        (1.0, ready(1), "", "worker.ready; group.ready"),
        (9.0, unready(1, "no answer within 1 s"), "SIGTERM tree 1#0; timer condemned:1 39",
         "worker.unready rank=1; group.degraded ready=1; worker.probe_failed rank=1 signal=SIGTERM by=probe"),
    )  # fmt: skip
    assert states(story) == [("ready", ""), ("stopping", "failed its probe (no answer within 1 s)")]
    story.tell(
        (9.5, unready(1, "again")),
        (9.6, ready(1)),
        (39.0, due("condemned:1"), "SIGKILL tree 1#0; timer condemned:1 49", "worker.killed rank=1 signal=SIGKILL"),
        (39.1, killed(1, 9), "no timer condemned:1; SIGTERM tree 0#0; timer ladder 69.1",
         "worker.exited by=probe signal=SIGKILL; worker.failed rank=1 root_cause=true by=probe",
         "group.restarting cause=probe; group.stopping"),
        (39.2, gone(1)),
        (39.2, exited(0), "", "worker.exited by=daemon"),
        (39.2, gone(0), "no timer ladder; form world 1", "group.starting attempt=1"),
    )  # fmt: skip
    failure = story.view.last_failure
    assert failure is not None
    assert failure.reason.startswith("rank 1 failed its probe (no answer within 1 s) and was killed by SIGKILL after ")


def test_a_late_answer_is_not_applied_to_a_newer_attempt() -> None:
    story = running(job(probe=LIVENESS, restart=ALONE)).tell(
        (1.0, ready(0), "", "worker.ready; group.ready"),
        (2.0, exited(0, code=1), "", "worker.exited; worker.failed; group.restarting; group.degraded"),
        (2.0, unready(0, "connection refused")),
        (2.0, gone(0), "start 0#1 after 1"),
        (2.1, unready(0, "connection refused", attempt=0)),
        (2.1, ready(0, attempt=0)),
        (2.2, started(0), "", "worker.started"),
        (2.3, ready(0, attempt=0)),
        (2.3, unready(0, "connection refused", attempt=0)),
    )
    assert states(story) == [("starting", "")]


def test_an_orderly_exit_of_a_worker_that_was_found_failed_is_a_failure_all_the_same() -> None:
    story = running(job(workers=2, probe=LIVENESS, restart=ALONE)).tell(
        (1.0, ready(0), "", "worker.ready"),
        (9.0, unready(0, "503"), "SIGTERM tree 0#0; timer condemned:0 39", "worker.unready; worker.probe_failed"),
        (9.1, exited(0, code=0), "no timer condemned:0",
         "worker.exited by=probe exit_code=0; worker.failed root_cause=true; group.restarting cause=probe rank=0"),
        (9.1, gone(0), "start 0#1 after 1"),
        (9.2, started(0), "", "worker.started"),
        (9.3, ready(0), "", "worker.ready"),
        (9.4, unready(0, "503"), "SIGTERM tree 0#1; timer condemned:0 39.4", "worker.unready; worker.probe_failed"),
        (9.5, exited(0, code=0), "no timer condemned:0; SIGTERM tree 1#0; timer ladder 39.5",
         "worker.exited; worker.failed; group.gave_up; group.stopping"),
        (9.6, exited(1), "", "worker.exited by=daemon"),
        (9.6, gone(0)),
        (9.6, gone(1), "no timer ladder", "group.failed exit_code=1"),
    )  # fmt: skip
    assert story.phase_of() is Phase.FINISHED


def test_a_worker_that_had_ended_well_before_it_was_found_failed_has_ended_well() -> None:
    running(job(probe=LIVENESS)).tell(
        (1.0, ready(0), "", "worker.ready; group.ready"),
        (9.0, unready(0, "refused"), "SIGTERM tree 0#0; timer condemned:0 39",
         "worker.unready; group.degraded; worker.probe_failed"),
        (9.0, exited(0, code=0, unasked=True), "no timer condemned:0", "worker.exited by=itself exit_code=0"),
        (9.1, gone(0), "", "group.succeeded"),
    )  # fmt: skip


def test_a_stop_takes_over_from_the_ladder_of_a_single_worker() -> None:
    story = running(job(probe=LIVENESS)).tell(
        (1.0, ready(0), "", "worker.ready; group.ready"),
        (9.0, unready(0, "503"), "SIGTERM tree 0#0; timer condemned:0 39",
         "worker.unready; group.degraded; worker.probe_failed"),
        (10.0, asked_to_stop(), "no timer condemned:0; SIGTERM tree 0#0; timer ladder 40", "group.stopping"),
        (39.0, fired("condemned:0", 39.0)),
        (39.5, unready(0, "503")),
        (39.6, killed(0, 15), "", "worker.exited by=probe; worker.failed root_cause=false"),
        (39.7, gone(0), "no timer ladder", "group.stopped"),
    )  # fmt: skip
    assert story.phase_of() is Phase.FINISHED


def test_what_cannot_be_killed_is_not_restarted_over() -> None:
    """A worker in uninterruptible sleep answers no probe, and no signal either."""
    stop = StopRules((Rung(9, 10.0),), "leader")
    story = running(job(workers=2, probe=LIVENESS, stop=stop)).tell(
        (1.0, ready(0), "", "worker.ready"),
        (9.0, unready(0, "503"), "SIGKILL tree 0#0; timer condemned:0 19", "worker.unready; worker.probe_failed"),
        (19.0, due("condemned:0"), "no timer condemned:0; SIGKILL tree 0#0 1#0; timer ladder 29",
         "worker.unkillable rank=0; group.stopping"),
        (19.1, killed(1, 9), "", "worker.exited"),
        (19.1, gone(1)),
        (29.0, due("ladder"), "", "group.failed exit_code=1"),
    )  # fmt: skip
    assert story.view.workers[0].state == "unkillable"
    assert story.group.failure is not None
    assert story.group.failure.reason == "rank 0 failed its probe (503) and cannot be killed"
