"""A worker does not end when it is told to: the ladder goes on, and what outlives its last rung is named."""

from __future__ import annotations

from supervisor.core.state import Phase
from supervisor.plan import RestartRules, Rung, StopRules
from tests.stories.story import (
    asked_to_start,
    asked_to_stop,
    due,
    end,
    exited,
    gone,
    job,
    killed,
    running,
)


def test_sigterm_is_ignored_and_sigkill_is_not() -> None:
    running(job(workers=2)).tell(
        (1.0, end(), "SIGTERM tree 0#0 1#0; timer ladder 31", "daemon.stopping; group.stopping"),
        (1.1, exited(0), "", "worker.exited by=daemon"),
        (1.1, gone(0)),
        (31.0, due("ladder"), "SIGKILL tree 1#0; timer ladder 41", "worker.killed rank=1 signal=SIGKILL"),
        (31.1, killed(1, 9), "", "worker.exited by=daemon"),
        (31.1, gone(1), "no timer ladder", "group.stopped duration_ms=30100.0"),
    )


def test_signals_reach_as_far_as_the_scope_says_and_the_last_one_the_whole_tree() -> None:
    rules = StopRules((Rung(15, 30.0), Rung(9, 10.0)), scope="leader")
    running(job(stop=rules)).tell(
        (1.0, asked_to_stop(), "SIGTERM leader 0#0; timer ladder 31", "group.stopping"),
        (31.0, due("ladder"), "SIGKILL tree 0#0; timer ladder 41", "worker.killed"),
    )


def test_what_cannot_be_killed_is_named_and_the_group_fails_rather_than_restart_over_it() -> None:
    story = running(job(workers=2)).tell(
        (1.0, exited(0, code=3), "SIGTERM tree 1#0; timer ladder 31",
         "worker.exited; worker.failed; group.restarting; group.stopping"),
        (1.0, gone(0)),
        (31.0, due("ladder"), "SIGKILL tree 1#0; timer ladder 41", "worker.killed"),
        (41.0, due("ladder"), "", "worker.unkillable rank=1 pid=1001; group.failed exit_code=3"),
    )  # fmt: skip
    assert story.view.why == "rank 1 cannot be killed"
    assert [worker.state for worker in story.view.workers] == ["failed", "unkillable"]
    assert story.over()


def test_a_stop_that_does_not_come_true_is_a_failure() -> None:
    story = running(job(workers=2)).tell(
        (1.0, end(), "SIGTERM tree 0#0 1#0; timer ladder 31", "daemon.stopping; group.stopping"),
        (31.0, due("ladder"), "SIGKILL tree 0#0 1#0; timer ladder 41", "worker.killed; worker.killed"),
        (41.0, due("ladder"), "", "worker.unkillable; worker.unkillable; group.failed exit_code=1"),
    )
    assert story.view.why == "ranks 0, 1 cannot be killed"
    assert story.state.exit_code == 1


def test_its_slot_is_not_used_again_before_it_has_ended_after_all() -> None:
    story = running(job(), when_done="stay").tell(
        (1.0, asked_to_stop(), "SIGTERM tree 0#0; timer ladder 31", "group.stopping"),
        (31.0, due("ladder"), "SIGKILL tree 0#0; timer ladder 41", "worker.killed"),
        (41.0, due("ladder"), "", "worker.unkillable; group.failed"),
        (42.0, asked_to_start()),
        (50.0, killed(0, 9), "", "worker.exited by=daemon"),
        (50.0, asked_to_start()),
        (50.0, gone(0)),
    )
    assert story.phase_of() is Phase.FINISHED
    story.tell((51.0, asked_to_start(), "form world 1", "group.starting"))


def test_of_many_that_cannot_be_killed_the_reason_names_a_few() -> None:
    story = running(job(workers=12, restart=RestartRules(max_restarts=0)))
    story.happen(1.0, asked_to_stop(hurry=True))
    story.happen(11.0, due("ladder"))
    assert story.view.why == "ranks 0, 1, 2, 3, 4, 5, 6, 7 ... cannot be killed"
    assert len(story.said) == 13


def test_a_crash_signal_of_the_ladder_itself_was_sent_by_us() -> None:
    """Somebody wants a core dump of what hangs: SIGABRT as a rung. It is the daemon that ended the worker then."""
    story = running(job(stop=StopRules((Rung(6, 5.0), Rung(9, 5.0)))))
    story.happen(1.0, asked_to_stop())
    story.happen(1.1, killed(0, 6))
    assert story.said[0].fields["by"] == "daemon"
