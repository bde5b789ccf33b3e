"""One rank of a group whose workers serve each for itself is started or restarted by itself, as somebody wishes."""

from __future__ import annotations

import pytest

from supervisor.core.running import why_not_alone
from tests.stories.story import (
    Story,
    asked_to_stop,
    end,
    exited,
    formed,
    gone,
    held,
    job,
    killed,
    rank_asked_for,
    running,
    started,
    up,
)
from tests.stories.test_rolling import halted, serving


def test_one_rank_is_replaced_while_the_group_stays_ready_and_nobody_is_charged() -> None:
    story = running(serving(3)).tell(
        (1.0, rank_asked_for(1), "SIGTERM tree 1#0; timer condemned:1 31",
         "group.rolling workers=3 replaced=0; worker.stopping rank=1 signal=SIGTERM"),
        (2.0, killed(1, 15), "no timer condemned:1", "worker.exited by=daemon"),
        (2.5, gone(1), "start 1#1"),
    )  # fmt: skip
    assert story.ready.ok
    story.tell((3.0, started(1), "", "worker.started; group.rolling replaced=1 over=true halted=false"))
    assert (story.view.restarts, story.group.roll) == (0, None)


def test_who_serves_is_drained_first() -> None:
    running(serving(2, drain=3.0)).tell(
        (1.0, rank_asked_for(0), "timer condemned:0 4", "group.rolling"),
    )


def test_one_that_waits_to_restart_is_started_now() -> None:
    story = running(serving(2)).ends(1.0, 1, code=1)
    story.tell((2.0, rank_asked_for(1, anew=False), "no timer restart:1; start 1#1", "group.rolling; group.ready"))
    story.tell((3.0, started(1), "", "worker.started; group.rolling replaced=1 over=true"))


def test_one_whose_last_processes_are_still_there_starts_when_they_are_gone() -> None:
    story = running(serving(2))
    story.happen(1.0, exited(1, code=1))
    story.tell((2.0, rank_asked_for(1, anew=False), "", "group.rolling; group.ready"), (3.0, gone(1), "start 1#1"))


def test_one_that_has_ended_well_runs_again() -> None:
    story = running(serving(2, policy="on-failure"))
    story.happen(1.0, exited(1, code=0))
    story.happen(1.0, gone(1))
    story.tell((2.0, rank_asked_for(1, anew=False), "start 1#1", "group.rolling"))


def test_one_that_a_halted_roll_has_lost_comes_back_by_its_plan_and_nobody_else_is_rolled() -> None:
    story = halted()
    story.tell((7.0, rank_asked_for(0, anew=False), "start 0#2"), (8.0, started(0), "", "worker.started"))
    assert [worker.state for worker in story.view.workers] == ["ready", "ready", "ready"]
    assert [story.group.plan_by(rank).command for rank in range(3)] == [("other",), ("job",), ("job",)]


def test_a_group_whose_lost_rank_was_brought_back_succeeds_as_any_other() -> None:
    story = halted(2)
    story.happen(7.0, rank_asked_for(0, anew=False))
    story.happen(8.0, started(0))
    for rank in (0, 1):
        story.happen(9.0, exited(rank, code=0))
        story.happen(9.0, gone(rank))
    assert story.group.verdict is not None
    assert (story.group.verdict.outcome, story.group.roll) == ("succeeded", None)


def test_what_runs_is_left_alone_by_a_start() -> None:
    running(serving(2)).tell((1.0, rank_asked_for(1, anew=False)))


def test_during_a_roll_one_more_is_taken() -> None:
    story = running(serving(3, max_unavailable=2))
    story.happen(1.0, rank_asked_for(0))
    story.tell((1.5, rank_asked_for(2), "SIGTERM tree 2#0; timer condemned:2 31.5", "worker.stopping rank=2"))
    for rank in (0, 2):
        story.happen(2.0, killed(rank, 15))
        story.happen(2.0, gone(rank))
    story.happen(3.0, started(0))
    story.tell((3.0, started(2), "", "worker.started; group.rolling replaced=2 over=true"))


def nothing_comes_of_it(story: Story, rank: int, why: str, *, anew: bool = True) -> None:
    assert why_not_alone(story.group, rank, anew) == why
    story.tell((story.now, rank_asked_for(rank, anew=anew)))


def test_where_it_cannot_be_had_it_says_why_and_nothing_comes_of_it() -> None:
    nothing_comes_of_it(
        running(job()), 0, "the workers of group job need each other: all of them restart (restart.scope)"
    )
    nothing_comes_of_it(running(serving(2)), 2, "group job has no rank 2")
    stopping = running(serving(2))
    stopping.happen(1.0, asked_to_stop())
    nothing_comes_of_it(stopping, 0, "group job is stopping: no rank of it starts alone")
    begun = Story(serving(2))
    begun.happen(0.0, up())
    nothing_comes_of_it(begun, 0, "group job is starting: no rank of it starts alone")
    begun.happen(0.0, formed())
    nothing_comes_of_it(begun, 0, "rank 0 of group job is about to start")
    several = running(serving(3))
    several.happen(1.0, rank_asked_for(0))
    away = "as many workers of group job are away as may be (restart.max_unavailable): [0]"
    nothing_comes_of_it(several, 1, away)
    asleep = running(serving(2))
    asleep.happen(1.0, held(1, "in nfs_wait"))
    nothing_comes_of_it(asleep, 1, "rank 1 of group job is held in the kernel")
    again = running(serving(2))
    again.happen(1.0, rank_asked_for(1))
    nothing_comes_of_it(again, 1, "rank 1 of group job is ending already")


@pytest.mark.parametrize("anew", [False, True])
def test_a_daemon_that_stops_starts_none(anew: bool) -> None:
    story = running(serving(2))
    story.happen(1.0, end())
    story.tell((2.0, rank_asked_for(1, anew=anew)))
