"""With ``--wait``: when what was asked for is so, and when it cannot become so any more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from supervisor.control.waiting import Outcome, may_decide, outcome, outcome_of_rank, so_far
from supervisor.plan import Probe, RestartRules
from tests.control.test_table import told
from tests.stories.story import (
    Story,
    asked_to_run,
    asked_to_stop,
    due,
    exited,
    formed,
    gone,
    job,
    killed,
    not_started,
    rank_asked_for,
    read_anew,
    ready,
    running,
    started,
)
from tests.stories.test_rolling import replaced, serving


def view(story: Story) -> dict[str, Any]:
    found: dict[str, Any] = told(story)["groups"]["job"]
    return found


def test_a_stop_is_so_when_all_is_gone() -> None:
    story = running(job())
    story.happen(1.0, asked_to_stop(by="root"))
    assert outcome("stop", view(story), 0) is None
    story.happen(2.0, killed(0, 15))
    assert outcome("stop", view(story), 0) is None
    story.happen(2.0, gone(0))
    assert outcome("stop", view(story), 0) == Outcome(True, "has stopped")


def test_a_stop_cannot_become_so_where_a_worker_cannot_be_killed() -> None:
    story = running(job())
    story.happen(1.0, asked_to_stop(by="root"))
    for at in (31.0, 41.0):
        story.happen(at, due("ladder"))
    assert outcome("stop", view(story), 0) == Outcome(False, "rank 0 cannot be killed")


def test_a_group_is_scaled_when_all_that_there_are_to_be_are_ready() -> None:
    plan = serving(2)
    story = running(plan)
    story.happen(1.0, read_anew(replace(plan, workers=3)))
    assert outcome("scale", view(story), 0) is None
    story.happen(2.0, started(2))
    assert outcome("scale", view(story), 0) == Outcome(True, "is ready")
    assert outcome("scale", view(running(job(workers=3))), 0) == Outcome(True, "is ready")


def test_one_rank_is_restarted_when_its_next_worker_is_ready() -> None:
    story = running(serving(2))
    story.happen(1.0, rank_asked_for(1))
    assert outcome_of_rank("restart", view(story), 1, 0) is None
    replaced(story, 2.0, 1)
    assert outcome_of_rank("restart", view(story), 1, 0) == Outcome(True, "is ready")
    assert outcome_of_rank("start", view(story), 0, 0) == Outcome(True, "is ready"), "it ran all the time"


def test_one_rank_that_cannot_be_started_says_why() -> None:
    story = running(serving(2))
    story.happen(1.0, rank_asked_for(1))
    story.happen(2.0, killed(1, 15))
    story.happen(2.0, gone(1))
    story.happen(2.0, not_started(1, "permanent", "command not found: 'x'", 127))
    assert outcome_of_rank("restart", view(story), 1, 0) == Outcome(False, "command not found: 'x'")


def test_one_rank_of_what_runs_no_more_cannot_be_had() -> None:
    assert outcome_of_rank("start", None, 0, 0) == Outcome(False, "the configuration has its group no more")
    story = running(serving(1))
    story.happen(1.0, asked_to_stop(by="root"))
    assert outcome_of_rank("start", view(story), 0, 0) == Outcome(False, "operator")


def test_a_group_that_does_not_run_is_scaled_at_once() -> None:
    story = running(job(workers=3))
    story.happen(1.0, asked_to_stop(by="root"))
    for rank in range(3):
        story.happen(2.0, killed(rank, 15))
        story.happen(2.0, gone(rank))
    assert outcome("scale", view(story), 0) == Outcome(True, "is not running, and has 3 workers when it is started")


def test_a_restart_is_so_when_workers_started_since_are_all_ready() -> None:
    story = running(job(probe=Probe("http://h")))
    story.happen(0.5, ready(0))
    assert outcome("restart", view(story), 0) is None  # these are the old ones
    story.happen(1.0, asked_to_run(anew=True))
    story.happen(2.0, killed(0, 15))
    story.happen(2.0, gone(0))
    story.happen(2.0, formed())
    story.happen(2.0, started(0))
    assert outcome("restart", view(story), 0) is None
    story.happen(3.0, ready(0))
    assert outcome("restart", view(story), 0) == Outcome(True, "is ready")


def test_a_group_that_fails_instead_is_not_started_and_says_why() -> None:
    story = running(job(restart=RestartRules(max_restarts=0)))
    story.happen(1.0, exited(0, 3))
    assert outcome("start", view(story), -1) is None
    story.happen(1.0, gone(0))
    found = outcome("start", view(story), -1)
    assert found is not None
    assert not found.is_so
    assert found.words.startswith("rank 0 exited with code 3 after 1.0 s; not restarted")


def test_a_job_that_is_over_already_was_started() -> None:
    assert outcome("start", view(running(job()).ends(1.0, 0)), -1) == Outcome(True, "has succeeded")


def test_a_group_that_a_reload_has_taken_away_is_stopped_and_cannot_be_started() -> None:
    assert outcome("stop", None, 0) == Outcome(True, "has stopped, and the configuration has it no more")
    assert outcome("start", None, 0) == Outcome(False, "the configuration has it no more")


def test_only_what_may_have_decided_it_is_worth_a_question() -> None:
    assert may_decide([{"event": "worker.started", "group": "job"}, {"event": "group.ready", "group": "job"}], "job")
    assert may_decide([{"event": "lost"}], "job")
    assert may_decide([{"event": "daemon.reloaded"}], "job")
    assert may_decide([{"event": "worker.unkillable", "group": "job"}], "job")
    assert not may_decide([{"event": "worker.started", "group": "job"}, {"event": "group.ready", "group": "b"}], "job")


def test_who_waits_no_longer_is_told_how_far_it_is() -> None:
    story = running(job(probe=Probe("http://h")))
    words = "is not started yet, but running, 0/1 workers ready: every worker has started"
    assert so_far("start", view(story)) == words
    assert so_far("stop", None) == "is gone"


def test_a_rolling_restart_is_so_when_the_last_worker_is_replaced() -> None:
    story = running(serving(2))
    story.happen(1.0, asked_to_run(anew=True))
    replaced(story, 2.0, 0)
    assert outcome("restart", view(story), 0) is None
    replaced(story, 3.0, 1)
    assert outcome("restart", view(story), 0) == Outcome(True, "is ready")


def test_a_rolling_restart_that_has_halted_is_not_so() -> None:
    story = running(serving(3))
    story.happen(1.0, asked_to_run(anew=True))
    story.happen(2.0, killed(0, 15))
    story.happen(2.0, gone(0))
    story.happen(3.0, not_started(0, "permanent"))
    found = outcome("restart", view(story), 0)
    assert found is not None
    assert not found.is_so
    assert found.words.startswith("goes on with workers that are not replaced: ")
