"""What people are told of the groups: every phase and every state of a worker, with what comes next and when."""

from __future__ import annotations

from supervisor.core import view
from supervisor.core.health import Only
from supervisor.plan import Backoff, RestartRules, Rung, StopRules
from tests.stories.story import (
    Story,
    asked_to_roll,
    asked_to_stop,
    due,
    exited,
    formed,
    gone,
    job,
    killed,
    not_started,
    running,
    started,
    up,
)

PAUSED = Backoff(initial=5.0, jitter=0.0)


def states(story: Story) -> list[str]:
    return [worker.state for worker in story.view.workers]


def test_a_snapshot_may_have_the_row_of_a_single_worker() -> None:
    story = running(job("a", 2), job("b", 3))

    def rows(group: str, rank: int) -> list[int]:
        shown = view.snapshot(story.state, story.now, workers=Only(group, rank))
        assert not shown.groups["a"].workers
        return [worker.local_rank for worker in shown.groups["b"].workers]

    assert (rows("b", 2), rows("b", 3), rows("c", 0)) == ([2], [], [])


def test_what_comes_next_in_a_roll_is_how_far_it_has_come() -> None:
    story = running(job(workers=2, restart=RestartRules(scope="worker")))
    story.happen(1.0, asked_to_roll())
    assert (story.view.next, story.view.next_at) == ("replaces its workers, 0/2 so far", None)


def test_a_snapshot_has_all_groups_and_may_leave_their_workers_out() -> None:
    story = running(job("a", 2), job("b", required=False))
    full = view.snapshot(story.state, 5.0)
    assert (full.at, full.stage, full.why, list(full.groups)) == (5.0, "running", "", ["a", "b"])
    assert [worker.pid for worker in full.groups["a"].workers] == [1000, 1001]
    assert [full.groups[name].required for name in "ab"] == [True, False]
    short = view.snapshot(story.state, 5.0, workers=False)
    assert short.groups["a"].workers == ()
    assert short.groups["a"].ready_workers == 2


def test_a_group_from_waiting_to_ready() -> None:
    story = Story(job(workers=2))
    assert (story.view.phase, story.view.why, states(story)) == ("waiting", "not started yet", ["pending"] * 2)
    story.happen(0.0, up())
    assert (story.view.phase, story.view.why, states(story)) == ("starting", "asked to start", ["pending"] * 2)
    story.happen(0.0, formed())
    assert states(story) == ["starting"] * 2
    story.happen(0.5, started(0))
    assert states(story) == ["ready", "starting"]
    assert (story.view.ready_workers, story.view.ready, story.view.was_ready) == (1, False, False)
    story.happen(0.5, started(1))
    assert (story.view.phase, story.view.why, states(story)) == ("running", "every worker is ready", ["ready"] * 2)
    assert (story.view.ready, story.view.was_ready, story.view.next) == (True, True, None)


def test_a_worker_from_running_to_gone() -> None:
    story = running(job(workers=3))
    story.happen(1.0, exited(0))
    first = story.view.workers[0]
    assert (first.state, first.since, first.pid, first.exit) == ("exited", 1.0, 1000, "exited with code 0")
    story.happen(2.0, gone(0))
    first = story.view.workers[0]
    assert (first.state, first.since, first.pid, first.exit) == ("succeeded", 1.0, None, "exited with code 0")
    story.happen(3.0, killed(1, 11))
    story.happen(3.0, gone(1))
    assert states(story) == ["succeeded", "failed", "stopping"]
    story.happen(3.1, killed(2, 15))
    assert states(story) == ["succeeded", "failed", "exited"]


def test_how_it_ended_before_is_still_told_of_a_rank_that_runs_again() -> None:
    story = running(job(workers=2, restart=RestartRules(scope="worker", backoff=PAUSED)))
    story.happen(1.0, exited(1, code=3))
    story.happen(1.0, gone(1))
    rank = story.view.workers[1]
    assert (rank.state, rank.attempt, rank.exit) == ("backing_off", 0, "exited with code 3")
    story.happen(6.0, due("restart:1"))
    rank = story.view.workers[1]
    assert (rank.state, rank.attempt, rank.exit) == ("starting", 1, "exited with code 3")


def test_what_comes_next_and_when() -> None:
    story = running(job(restart=RestartRules(backoff=PAUSED)))
    story.happen(1.0, exited(0, code=1))
    assert (story.view.next, story.view.next_at) == ("SIGKILL to what is left", 31.0)
    story.happen(31.0, due("ladder"))
    assert (story.view.next, story.view.next_at) == ("gives up on what is left", 41.0)
    story.happen(32.0, gone(0))
    assert (story.view.next, story.view.next_at) == ("starts attempt 1", 37.0)
    story.happen(37.0, due("backoff"))
    assert (story.view.next, story.view.next_at) == (None, None)


def test_the_next_rung_is_named() -> None:
    story = running(job(stop=StopRules((Rung(2, 5.0), Rung(15, 6.0), Rung(9, 7.0)))))
    story.happen(1.0, asked_to_stop())
    assert (story.view.next, story.view.next_at) == ("SIGTERM to what is left", 6.0)
    story.happen(6.0, due("ladder"))
    assert (story.view.next, story.view.next_at) == ("SIGKILL to what is left", 12.0)


def test_the_next_rank_to_restart_is_the_one_whose_pause_ends_first() -> None:
    rules = RestartRules(scope="worker", backoff=Backoff(initial=4.0, factor=3.0, jitter=0.0))
    story = running(job(workers=3, restart=rules)).ends(1.0, 2, 1, code=1)
    assert (story.view.next, story.view.next_at) == ("restarts rank 2", 5.0)


def test_a_start_that_was_called_off_is_stopped_and_one_that_failed_has_failed() -> None:
    story = Story(job(workers=3))
    for what in (up(), formed(), started(0), asked_to_stop()):
        story.happen(1.0, what)
    story.happen(1.0, not_started(1, "abandoned", "called off"))
    story.happen(1.0, not_started(2, "permanent", "no such file"))
    assert states(story) == ["stopping", "stopped", "failed"]
    assert [worker.exit for worker in story.view.workers] == ["", "called off", "no such file"]


def test_the_last_failure_is_that_of_the_attempt_before_until_all_is_well_for_good() -> None:
    story = running(job(workers=2)).ends(1.0, 1, code=3).ends(1.0, 0, code=0).runs(1.0)
    last = story.view.last_failure
    assert last is not None
    assert (last.at, last.attempt, last.rank, last.exit_code, last.signal) == (1.0, 0, 1, 3, None)
    assert last.reason == "rank 1 exited with code 3 after 1.0 s"
    assert (story.view.attempt, story.view.restarts, story.view.restarts_left) == (1, 1, 2)
