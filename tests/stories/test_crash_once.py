"""A worker crashes: all others are stopped, and when everything is gone the next attempt starts, ranks as before."""

from __future__ import annotations

import signal

from supervisor.core.messages import ErrorReport
from supervisor.core.state import Phase
from tests.stories.story import Story, exited, formed, gone, job, killed, running, started, up


def test_from_the_beginning_to_the_second_success() -> None:
    """Two workers start, rank 1 exits with code 3, both start again and succeed."""
    story = Story(job(workers=2)).tell(
        (0.0, up(), "form world 0", "group.starting attempt=0 workers=2"),
        (0.0, formed(), "start 0#0 1#0", ""),
        (0.1, started(0), "", "worker.started rank=0 attempt=0 pid=1000"),
        (0.2, started(1), "", "worker.started rank=1; group.started duration_ms=200.0; group.ready"),
        (5.2, exited(1, code=3), "SIGTERM tree 0#0; timer ladder 35.2",
         "worker.exited rank=1 exit_code=3 by=itself ran_for_ms=5000.0",
         "worker.failed rank=1 root_cause=true exit_code=3",
         "group.restarting cause=exit restarts_left=2 pause_ms=0",
         "group.stopping workers=1 signal=SIGTERM"),
        (5.2, gone(1)),
        (5.3, killed(0, signal.SIGTERM), "", "worker.exited rank=0 signal=SIGTERM by=daemon"),
        (5.4, gone(0), "no timer ladder; form world 1", "group.starting attempt=1"),
        (5.4, formed(), "start 0#1 1#1 after 1", ""),
        (5.5, started(0), "", "worker.started attempt=1"),
        (5.5, started(1), "", "worker.started attempt=1; group.started duration_ms=100; group.ready duration_ms=100"),
        (9.0, exited(0), "", "worker.exited exit_code=0"),
        (9.0, gone(0)),
        (9.1, exited(1), "", "worker.exited exit_code=0"),
        (9.2, gone(1), "", "group.succeeded attempt=1 restarts=1"),
    )  # fmt: skip
    assert story.over()
    assert story.state.exit_code == 0


def test_the_view_says_why_and_what_comes_next() -> None:
    story = running(job(workers=2))
    story.happen(5.0, killed(1, signal.SIGSEGV, core_dumped=True))
    seen = story.view
    assert (seen.phase, seen.attempt, seen.restarts, seen.restarts_left) == ("stopping", 0, 1, 2)
    assert seen.why == "rank 1 was killed by SIGSEGV (core dumped) after 5.0 s"
    assert (seen.next, seen.next_at) == ("SIGKILL to what is left", 35.0)
    assert seen.last_failure is not None
    assert (seen.last_failure.rank, seen.last_failure.signal, seen.last_failure.exit_code) == (1, "SIGSEGV", None)
    assert [worker.state for worker in seen.workers] == ["stopping", "exited"]
    assert story.ready.reasons == (
        "group job is stopping, 0/2 workers ready: rank 1 was killed by SIGSEGV (core dumped) after 5.0 s",
    )


def test_only_the_first_failure_of_an_attempt_is_counted() -> None:
    """Rank 0 crashes as well while it is being stopped: the record says so, and one restart is used, not two."""
    story = running(job(workers=2))
    story.tell(
        (5.0, exited(1, code=3), "SIGTERM tree 0#0; timer ladder 35",
         "worker.exited; worker.failed; group.restarting; group.stopping"),
        (5.0, killed(0, signal.SIGSEGV), "",
         "worker.exited signal=SIGSEGV by=itself; worker.failed rank=0 root_cause=false"),
        (5.0, gone(0)),
        (5.0, gone(1), "no timer ladder; form world 1", "group.starting"),
    )  # fmt: skip
    assert story.view.restarts == 1
    assert story.view.last_failure is not None
    assert story.view.last_failure.rank == 1


def test_the_first_to_end_is_the_root_cause_whatever_the_workers_clocks_say() -> None:
    """The error file of rank 0 is of an hour before; torch would take it for the cause."""
    running(job(workers=2)).tell(
        (5.0, exited(1, code=3, error=ErrorReport("ValueError: the cause", timestamp=1795349042)),
         "SIGTERM tree 0#0; timer ladder 35",
         "worker.exited; worker.failed rank=1 root_cause=true; group.restarting; group.stopping"),
        (5.0, exited(0, code=1, unasked=True, error=ErrorReport("OSError: a consequence", timestamp=1795345442)), "",
         "worker.exited; worker.failed rank=0 root_cause=false"),
    )  # fmt: skip


def test_a_peer_that_we_stop_has_not_failed_however_it_ends() -> None:
    """Rank 0 exits with an error upon our SIGTERM; rank 2 had done so by itself before that could reach it."""
    running(job(workers=3)).tell(
        (5.0, exited(1, code=3), "SIGTERM tree 0#0 2#0; timer ladder 35",
         "worker.exited; worker.failed rank=1 root_cause=true; group.restarting; group.stopping"),
        (5.0, exited(2, code=4, unasked=True), "",
         "worker.exited rank=2 by=itself; worker.failed rank=2 root_cause=false exit_code=4"),
        (5.1, exited(0, code=1), "", "worker.exited rank=0 by=daemon"),
    )  # fmt: skip


def test_who_ended_a_worker_is_told_from_when_and_how_it_ended() -> None:
    """By itself: an exit, a crash. From outside: any other signal while nobody was stopping it."""
    for signal_number, by in ((signal.SIGABRT, "itself"), (signal.SIGKILL, "outside"), (signal.SIGTERM, "outside")):
        story = running(job())
        story.happen(1.0, killed(0, signal_number))
        assert story.said[0].fields["by"] == by


def test_a_late_report_of_the_attempt_before_changes_nothing() -> None:
    story = running(job(workers=2)).ends(1.0, 1, code=1).ends(1.0, 0, code=1).runs(2.0)
    before = story.state
    story.tell(
        (3.0, exited(0, code=9, attempt=0)),
        (3.0, gone(0, attempt=0)),
        (3.0, started(1, attempt=0)),
    )
    assert story.state is before
    assert story.phase_of() is Phase.RUNNING


def test_attempts_go_on_counting_where_an_earlier_daemon_stopped() -> None:
    """Logs of attempts up to 6 are there: the first one is 7, so that none is wiped."""
    Story(job(), attempt=6).tell((0.0, up(), "form world 7", "group.starting attempt=7"))


def test_a_signal_that_somebody_had_us_send_is_not_from_outside() -> None:
    story = running(job())
    story.happen(1.0, killed(0, signal.SIGKILL, sent=signal.SIGKILL))
    assert story.said[0].fields["by"] == "daemon"
    assert "outside" not in story.said[0].message
    other = running(job())
    other.happen(1.0, killed(0, signal.SIGKILL, sent=signal.SIGUSR1))
    assert other.said[0].fields["by"] == "outside"
