"""A worker does not say in time what it was to say: it is ended, and that is a failure like any other."""

from __future__ import annotations

import pytest

from supervisor.core.state import Phase
from supervisor.plan import DumpRules, Probe, RestartRules, Rung, StopRules, WatchdogRules
from tests.stories.story import (
    Story,
    asked_to_stop,
    due,
    exited,
    formed,
    gone,
    job,
    killed,
    ready,
    running,
    said_ready,
    seen,
    silent,
    started,
    unready,
    up,
)

TAKES_TIME = WatchdogRules(start_timeout=60.0)


def test_who_is_silent_is_killed_and_its_group_restarts_with_the_reason_in_the_record() -> None:
    story = running(job(workers=2)).tell(
        (5.0, silent(1), "timer condemned:1 7; look at 1#0",
         "worker.heartbeat_missed rank=1 what=heartbeat signal=SIGKILL; group.degraded ready=1"),
        (5.0, seen(1), "SIGKILL tree 1#0; timer condemned:1 15"),
        (5.1, killed(1, 9), "no timer condemned:1; SIGTERM tree 0#0; timer ladder 35.1",
         "worker.exited by=heartbeat; worker.failed root_cause=true by=heartbeat evidence=/logs/evidence",
         "group.restarting cause=heartbeat; group.stopping"),
        (5.1, gone(1)),
        (5.2, killed(0, 15), "", "worker.exited by=daemon"),
        (5.2, gone(0), "no timer ladder; form world 1", "group.starting"),
    )  # fmt: skip
    assert story.group.failure is not None
    assert story.group.failure.reason == ("rank 1 has sent no heartbeat for 5 s and was killed by SIGKILL after 5.1 s")
    assert story.view.restarts_left == 2


def test_who_is_silent_is_seen_to_be_stopped_and_why() -> None:
    story = running(job(workers=2))
    story.happen(5.0, silent(1))
    assert [(worker.state, worker.why) for worker in story.view.workers] == [
        ("ready", ""), ("stopping", "has sent no heartbeat for 5 s")
    ]  # fmt: skip


def test_a_timer_ends_its_worker_with_its_own_signal_and_an_exit_with_0_is_a_failure_all_the_same() -> None:
    running(job(restart=RestartRules(max_restarts=0))).tell(
        (5.0, silent(0, "did not release the timer 'x'", "timer", 15), "timer condemned:0 7; look at 0#0",
         "timer.expired signal=SIGTERM; group.degraded"),
        (5.0, seen(0), "SIGTERM tree 0#0; timer condemned:0 15"),
        (5.1, exited(0), "no timer condemned:0; timer ladder 35.1",
         "worker.exited by=timer exit_code=0; worker.failed; group.gave_up"),
        (5.1, gone(0), "no timer ladder", "group.failed exit_code=1"),
    )  # fmt: skip


def test_who_outlives_the_signal_of_its_timer_gets_sigkill() -> None:
    running(job(workers=2)).tell(
        (5.0, silent(0, "did not release the timer 'x'", "timer", 15), "timer condemned:0 7; look at 0#0",
         "timer.expired; group.degraded"),
        (5.0, seen(0), "SIGTERM tree 0#0; timer condemned:0 15"),
        (15.0, due("condemned:0"), "SIGKILL tree 0#0; timer condemned:0 25", "worker.killed rank=0 signal=SIGKILL"),
        (15.1, killed(0, 9), "no timer condemned:0; SIGTERM tree 1#0; timer ladder 45.1",
         "worker.exited by=timer; worker.failed; group.restarting cause=timer; group.stopping"),
    )  # fmt: skip


def test_who_cannot_be_killed_holds_its_slot_and_the_group_fails_over_it() -> None:
    story = running(job(workers=2)).tell(
        (5.0, silent(0), "timer condemned:0 7; look at 0#0", "worker.heartbeat_missed; group.degraded"),
        (5.0, seen(0), "SIGKILL tree 0#0; timer condemned:0 15"),
        (15.0, due("condemned:0"), "no timer condemned:0; SIGTERM tree 0#0 1#0; timer ladder 45",
         "worker.unkillable rank=0; group.stopping"),
        (15.1, exited(1), "", "worker.exited by=daemon"),
        (15.1, gone(1)),
        (45.0, due("ladder"), "SIGKILL tree 0#0; timer ladder 55", "worker.killed rank=0"),
        (55.0, due("ladder"), "", "group.failed exit_code=1"),
    )  # fmt: skip
    assert [worker.state for worker in story.view.workers] == ["unkillable", "succeeded"]


def test_in_a_group_of_scope_worker_only_the_silent_one_restarts() -> None:
    running(job(workers=2, restart=RestartRules(scope="worker"))).tell(
        (5.0, silent(1), "timer condemned:1 7; look at 1#0", "worker.heartbeat_missed; group.degraded"),
        (5.0, seen(1), "SIGKILL tree 1#0; timer condemned:1 15"),
        (5.1, killed(1, 9), "no timer condemned:1",
         "worker.exited by=heartbeat; worker.failed; group.restarting rank=1"),
        (5.1, gone(1), "start 1#1 after 1"),
    )  # fmt: skip


def test_silence_is_told_once_and_not_of_who_is_being_stopped_or_has_ended() -> None:
    running(job(workers=2)).tell(
        (5.0, silent(1), "timer condemned:1 7; look at 1#0", "worker.heartbeat_missed; group.degraded"),
        (5.0, seen(1), "SIGKILL tree 1#0; timer condemned:1 15"),
        (5.0, silent(1, by="timer")),
        (5.0, silent(0, attempt=7)),
        (5.1, asked_to_stop(), "no timer condemned:1; SIGTERM tree 0#0 1#0; timer ladder 35.1", "group.stopping"),
        (5.2, silent(0)),
        (5.3, killed(1, 9), "", "worker.exited by=heartbeat; worker.failed root_cause=false"),
        (5.3, silent(1)),
    )


def test_a_group_whose_workers_take_their_time_is_ready_when_the_last_has_said_so() -> None:
    story = Story(job(workers=2, watchdog=TAKES_TIME)).tell(
        (0.0, up(), "form world 0", "group.starting"),
        (0.0, formed(), "start 0#0 1#0"),
        (0.1, started(0), "", "worker.started"),
        (0.2, said_ready(0), "", "worker.ready rank=0 source=notify duration_ms=100.0"),
        (0.3, started(1), "", "worker.started; group.started"),
        (0.4, said_ready(0)),
    )  # fmt: skip
    assert not story.ready.ok
    assert [worker.state for worker in story.view.workers] == ["ready", "starting"]
    story.tell((9.0, said_ready(1), "", "worker.ready rank=1; group.ready duration_ms=9000.0"))
    assert story.ready.ok


def test_with_a_probe_as_well_it_is_the_probe_that_says_who_is_ready() -> None:
    story = running(job(watchdog=TAKES_TIME, probe=Probe("http://127.0.0.1:8000/", liveness=True))).tell(
        (1.0, said_ready(0)),
        (2.0, ready(0), "", "worker.ready source=probe; group.ready"),
    )
    assert story.ready.ok


def test_whoever_finds_a_worker_failed_first_ends_it_and_is_named_for_it() -> None:
    running(job(probe=Probe("http://127.0.0.1:8000/", liveness=True))).tell(
        (1.0, ready(0), "", "worker.ready; group.ready"),
        (5.0, silent(0), "timer condemned:0 7; look at 0#0", "worker.heartbeat_missed; group.degraded"),
        (5.0, seen(0), "SIGKILL tree 0#0; timer condemned:0 15"),
        (5.1, unready(0, "no answer")),
        (5.2, killed(0, 9), "no timer condemned:0; timer ladder 35.2",
         "worker.exited by=heartbeat; worker.failed by=heartbeat; group.restarting cause=heartbeat"),
    )  # fmt: skip


def test_one_that_ends_before_it_was_ready_was_not_ready() -> None:
    story = running(job(workers=2, restart=RestartRules(scope="worker"), watchdog=TAKES_TIME)).tell(
        (1.0, said_ready(0), "", "worker.ready"),
        (2.0, exited(1, 1), "", "worker.exited; worker.failed; group.restarting rank=1"),
        (2.0, gone(1), "start 1#1 after 1"),
        (2.1, said_ready(1)),
        (2.2, started(1), "", "worker.started"),
        (2.3, said_ready(1, attempt=0)),
        (3.0, said_ready(1), "", "worker.ready attempt=1; group.ready"),
    )
    assert story.view.ready_workers == 2


def test_a_word_from_one_that_is_being_stopped_makes_nobody_ready() -> None:
    story = running(job(workers=2, watchdog=TAKES_TIME)).tell(
        (1.0, asked_to_stop(), "SIGTERM tree 0#0 1#0; timer ladder 31", "group.stopping"),
        (1.1, said_ready(0)),
        (1.2, exited(0), "", "worker.exited by=daemon"),
        (1.2, said_ready(0)),
    )
    assert story.phase_of() is Phase.STOPPING
    assert story.view.ready_workers == 0


@pytest.mark.parametrize("ladder", [(Rung(9, 2.0),), (Rung(15, 30.0), Rung(9, 2.0))])
def test_its_patience_is_that_of_the_last_rung(ladder: tuple[Rung, ...]) -> None:
    story = running(job(stop=StopRules(ladder)))
    story.happen(5.0, silent(0))
    story.happen(5.5, seen(0))
    assert story.timers["job", "condemned:0"] == 7.5


def test_a_worker_is_ended_even_if_nobody_can_look_at_it() -> None:
    dump = DumpRules(signal=10, wait=5.0)
    running(job(watchdog=WatchdogRules(heartbeat=5.0, dump=dump))).tell(
        (5.0, silent(0), "timer condemned:0 12; look at 0#0", "worker.heartbeat_missed; group.degraded"),
        (12.0, due("condemned:0"), "SIGKILL tree 0#0; timer condemned:0 22"),
        (12.1, seen(0)),
        (12.2, killed(0, 9), "no timer condemned:0; timer ladder 42.2",
         "worker.exited by=heartbeat; worker.failed evidence=/logs/evidence; group.restarting"),
    )  # fmt: skip


def test_a_peer_that_dies_while_a_hung_worker_is_looked_at_is_not_the_root_cause() -> None:
    story = running(job(workers=3)).tell(
        (5.0, silent(1), "timer condemned:1 7; look at 1#0", "worker.heartbeat_missed; group.degraded"),
        (5.5, exited(2, 1), "", "worker.exited; worker.failed rank=2 root_cause=false"),
        (5.5, gone(2)),
        (5.6, seen(1), "SIGKILL tree 1#0; timer condemned:1 15.6"),
        (5.7, killed(1, 9), "no timer condemned:1; SIGTERM tree 0#0; timer ladder 35.7",
         "worker.exited; worker.failed rank=1 root_cause=true evidence=/logs/evidence",
         "group.restarting cause=heartbeat; group.stopping"),
        (5.8, killed(0, 15), "", "worker.exited by=daemon"),
    )  # fmt: skip
    assert story.group.failure is not None
    assert (story.group.failure.rank, story.group.failure.exit_code) == (1, 137)


def test_of_a_whole_group_that_hangs_the_first_that_was_found_is_the_root_cause() -> None:
    story = running(job(workers=2)).tell(
        (5.0, silent(1), "timer condemned:1 7; look at 1#0", "worker.heartbeat_missed; group.degraded"),
        (5.0, silent(0), "timer condemned:0 7; look at 0#0", "worker.heartbeat_missed"),
        (5.1, seen(1), "SIGKILL tree 1#0; timer condemned:1 15.1"),
        (5.1, seen(0), "SIGKILL tree 0#0; timer condemned:0 15.1"),
        (5.2, killed(0, 9), "no timer condemned:0", "worker.exited; worker.failed rank=0 root_cause=false"),
        (5.2, killed(1, 9), "no timer condemned:1; timer ladder 35.2",
         "worker.exited; worker.failed rank=1 root_cause=true; group.restarting"),
    )  # fmt: skip
    assert story.group.failure is not None
    assert story.group.failure.rank == 1


def test_a_hung_worker_that_exits_with_0_while_it_is_looked_at_has_failed_all_the_same() -> None:
    running(job(workers=2)).tell(
        (5.0, silent(1), "timer condemned:1 7; look at 1#0", "worker.heartbeat_missed; group.degraded"),
        (5.5, exited(1, unasked=True), "no timer condemned:1; SIGTERM tree 0#0; timer ladder 35.5",
         "worker.exited by=heartbeat exit_code=0; worker.failed root_cause=true; group.restarting; group.stopping"),
        (5.6, seen(1)),
    )  # fmt: skip


def test_one_that_had_ended_before_the_signal_for_its_probe_ended_by_itself() -> None:
    running(job(probe=Probe("http://127.0.0.1:8000/", liveness=True))).tell(
        (1.0, ready(0), "", "worker.ready; group.ready"),
        (5.0, unready(0, "503"), "SIGTERM tree 0#0; timer condemned:0 35",
         "worker.unready; group.degraded; worker.probe_failed"),
        (5.1, exited(0, 3, unasked=True), "no timer condemned:0; timer ladder 35.1",
         "worker.exited by=itself; worker.failed root_cause=true by=itself; group.restarting cause=exit"),
    )  # fmt: skip


def test_a_stop_that_comes_while_a_worker_is_looked_at_ends_it_like_the_others() -> None:
    running(job(workers=2)).tell(
        (5.0, silent(1), "timer condemned:1 7; look at 1#0", "worker.heartbeat_missed; group.degraded"),
        (5.1, asked_to_stop(), "no timer condemned:1; SIGTERM tree 0#0 1#0; timer ladder 35.1", "group.stopping"),
        (5.2, seen(1)),
        (5.3, killed(1, 15), "", "worker.exited by=heartbeat; worker.failed evidence=/logs/evidence"),
        (5.3, exited(0), "", "worker.exited by=daemon"),
    )


def test_what_was_seen_of_an_earlier_attempt_ends_nobody() -> None:
    running(job(workers=2)).tell(
        (5.0, silent(1), "timer condemned:1 7; look at 1#0", "worker.heartbeat_missed; group.degraded"),
        (5.1, seen(1, attempt=7)),
        (5.1, seen(0)),
    )


def test_a_worker_that_says_it_stops_is_not_ready_any_more() -> None:
    story = running(job(watchdog=TAKES_TIME)).tell(
        (1.0, said_ready(0), "", "worker.ready; group.ready"),
        (2.0, unready(0, "it says that it stops", source="notify"), "", "worker.unready source=notify; group.degraded"),
        (3.0, exited(0), "", "worker.exited"),
    )
    assert not story.ready.ok
