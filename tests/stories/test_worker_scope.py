"""``scope = "worker"``: one worker fails and restarts alone, the others run on."""

from __future__ import annotations

from supervisor.core.state import Phase
from supervisor.plan import Backoff, RestartRules
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
    not_started,
    running,
    started,
    up,
)

ALONE = RestartRules(scope="worker")
PAUSED = RestartRules(scope="worker", backoff=Backoff(initial=5.0, jitter=0.0))


def test_only_the_one_restarts_under_the_next_attempt_number() -> None:
    """The group is not ready meanwhile; every start has a number of its own, so that no log is wiped."""
    story = running(job(workers=3, restart=ALONE)).tell(
        (1.0, exited(1, code=3), "",
         "worker.exited rank=1; worker.failed rank=1 root_cause=true",
         "group.restarting rank=1 attempt=0 restarts_left=2; group.degraded ready=2"),
        (1.5, gone(1), "start 1#1 after 1"),
        (1.6, started(1), "", "worker.started rank=1 attempt=1; group.ready attempt=1 duration_ms=600.0"),
        (2.0, killed(0, 11), "",
         "worker.exited rank=0 attempt=0; worker.failed; group.restarting cause=signal; group.degraded"),
        (2.0, gone(0), "start 0#2 after 2"),
        (2.1, started(0), "", "worker.started rank=0 attempt=2; group.ready"),
    )  # fmt: skip
    assert [worker.attempt for worker in story.view.workers] == [2, 1, 0]
    assert story.phase_of() is Phase.RUNNING


def test_it_is_not_ready_while_one_is_away() -> None:
    story = running(job(workers=2, restart=ALONE))
    assert story.ready.ok
    story.happen(1.0, exited(1, code=3))
    assert story.ready.reasons == ("group job is running, 1/2 workers ready: rank 1 exited with code 3 after 1.0 s",)
    story.happen(1.0, gone(1))
    story.happen(1.1, started(1))
    assert story.ready.ok


def test_a_rank_pauses_before_it_restarts_and_the_pause_counts_from_its_end() -> None:
    story = running(job(workers=2, restart=PAUSED)).tell(
        (1.0, exited(1, code=3), "", "worker.exited; worker.failed; group.restarting pause_ms=5000.0; group.degraded"),
        (2.0, gone(1), "timer restart:1 6"),
    )
    assert (story.view.next, story.view.next_at) == ("restarts rank 1", 6.0)
    assert [worker.state for worker in story.view.workers] == ["ready", "backing_off"]
    story.tell((6.0, due("restart:1"), "start 1#1 after 1"), (6.0, fired("restart:1", 6.0)))


def test_a_rank_does_not_restart_over_what_is_left_of_it() -> None:
    """However long its processes take to be gone; not even a timer that nobody set starts it earlier."""
    running(job(workers=2, restart=PAUSED)).tell(
        (1.0, exited(1, code=3), "", "worker.exited; worker.failed; group.restarting; group.degraded"),
        (6.0, fired("restart:1", 6.0)),
        (9.0, gone(1), "start 1#1 after 1"),
    )


def test_all_ranks_draw_on_one_budget() -> None:
    story = running(job(workers=2, restart=RestartRules(scope="worker", max_restarts=1)))
    story.ends(1.0, 0, code=1)
    story.happen(1.0, started(0))
    story.tell(
        (2.0, exited(1, code=4), "SIGTERM tree 0#1; timer ladder 32",
         "worker.exited; worker.failed; group.gave_up; group.stopping workers=1"),
        (2.0, gone(1)),
        (2.1, killed(0, 15), "", "worker.exited by=daemon"),
        (2.1, gone(0), "no timer ladder", "group.failed exit_code=4"),
    )  # fmt: skip


def test_two_may_be_away_at_once_and_degraded_is_said_once() -> None:
    running(job(workers=3, restart=ALONE)).tell(
        (1.0, exited(0, code=1), "", "worker.exited; worker.failed; group.restarting; group.degraded"),
        (1.0, exited(1, code=1), "", "worker.exited; worker.failed; group.restarting"),
        (1.0, gone(0), "start 0#1 after 2"),
        (1.0, gone(1), "start 1#2 after 2"),
        (1.1, started(1), "", "worker.started"),
        (1.1, started(0), "", "worker.started; group.ready"),
    )


def test_who_ends_well_stays_away_and_the_last_one_ends_the_group() -> None:
    running(job(workers=2, restart=ALONE)).tell(
        (1.0, exited(0), "", "worker.exited"),
        (1.0, gone(0)),
        (2.0, exited(1, code=1), "", "worker.exited; worker.failed; group.restarting; group.degraded"),
        (2.0, gone(1), "start 1#1 after 1"),
        (2.1, started(1), "", "worker.started; group.ready"),
        (3.0, exited(1), "", "worker.exited"),
        (3.0, gone(1), "", "group.succeeded restarts=1"),
    )


def test_a_crash_before_the_others_have_started_is_restarted_as_well() -> None:
    """The group has started when every rank has, the restarted one included."""
    Story(job(workers=2, restart=PAUSED)).tell(
        (0.0, up(), "form world 0", "group.starting"),
        (0.0, formed(), "start 0#0 1#0"),
        (0.1, started(0), "", "worker.started"),
        (0.2, exited(0, code=1), "", "worker.exited; worker.failed; group.restarting"),
        (0.3, gone(0), "timer restart:0 5.2"),
        (0.4, started(1), "", "worker.started"),
        (5.2, due("restart:0"), "start 0#1 after 1"),
        (5.3, started(0), "", "worker.started; group.started; group.ready"),
    )


def test_a_rank_that_cannot_be_started_just_now_is_tried_again_alone() -> None:
    rules = RestartRules(scope="worker", backoff=Backoff(initial=0.0, jitter=0.0))
    story = running(job(workers=2, restart=rules)).ends(1.0, 0, code=1)
    story.tell(
        (1.1, not_started(0, "transient", "fork: EAGAIN"), "timer restart:0 3.1",
         "worker.failed exit_code=75; group.restarting cause=start pause_ms=2000.0"),
        (3.1, due("restart:0"), "start 0#2 after 2"),
        (3.2, started(0), "", "worker.started; group.ready"),
    )  # fmt: skip


def test_a_rank_that_can_never_start_ends_the_group() -> None:
    story = running(job(workers=2, restart=ALONE)).ends(1.0, 0, code=1)
    story.tell(
        (1.1, not_started(0, "permanent", "no such file", exit_code=127), "SIGTERM tree 1#0; timer ladder 31.1",
         "worker.failed exit_code=127; group.stopping"),
        (1.2, killed(1, 15), "", "worker.exited"),
        (1.2, gone(1), "no timer ladder", "group.failed exit_code=127"),
    )  # fmt: skip


def test_a_stop_calls_off_the_restart_of_a_rank() -> None:
    running(job(workers=2, restart=PAUSED)).ends(1.0, 1, code=1).tell(
        (2.0, asked_to_stop(), "no timer restart:1; SIGTERM tree 0#0; timer ladder 32", "group.stopping"),
        (2.1, exited(0), "", "worker.exited"),
        (2.1, gone(0), "no timer ladder", "group.stopped"),
    )


def test_a_stop_while_every_rank_pauses_is_over_at_once() -> None:
    running(job(restart=PAUSED)).ends(1.0, 0, code=1).tell(
        (2.0, asked_to_stop(), "no timer restart:0", "group.stopped"),
    )
