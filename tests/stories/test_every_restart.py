"""Every restart of a group is a stop of all, a new world and a start of all: torch's agent's cases, as a story."""

from __future__ import annotations

import signal

import pytest

from supervisor.core.messages import SignalWorkers, StartWorkers
from supervisor.plan import RestartRules
from tests.stories.story import NO_PAUSE, Story, exited, formed, gone, job, killed, started, up


def attempt(story: Story, at: float) -> list[int]:
    """A world is formed and both workers start; returns the ranks that were asked for."""
    story.happen(at, formed())
    ranks = [worker.rank for _, effect in story.done if isinstance(effect, StartWorkers) for worker in effect.workers]
    for rank in ranks:
        story.happen(at, started(rank))
    return ranks


@pytest.mark.parametrize("restarts", [0, 1, 5])
def test_n_restarts_are_n_stops_and_n_more_starts_of_all_ranks(restarts: int) -> None:
    """api_test, test_restart_workers and test_run_happy_path."""
    story = Story(job(workers=2, restart=RestartRules(max_restarts=5, backoff=NO_PAUSE)))
    story.happen(0.0, up())
    stops = 0
    for at in range(restarts):
        assert attempt(story, at) == [0, 1]
        story.happen(at, exited(1, code=1))
        stops += sum(isinstance(effect, SignalWorkers) for _, effect in story.done)
        story.happen(at, gone(1))
        story.happen(at, killed(0, signal.SIGTERM))
        story.happen(at, gone(0))
        assert story.group.world is None, "the next attempt meets anew"
    assert attempt(story, restarts) == [0, 1]
    story.ends(restarts, 0, 1)
    (said,) = story.said
    assert (said.name, said.fields["restarts"], stops) == ("group.succeeded", restarts, restarts)
    assert story.view.restarts_left == 5 - restarts


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_group_that_always_fails_is_tried_once_more_than_it_may_restart(most: int) -> None:
    """api_test, test_run_max_retries_exceeded."""
    story = Story(job(workers=2, restart=RestartRules(max_restarts=most, backoff=NO_PAUSE)))
    story.happen(0.0, up())
    tries = 0
    while not story.over():
        assert attempt(story, tries) == [0, 1]
        tries += 1
        story.happen(tries, exited(0, code=1))
        story.happen(tries, gone(0))
        story.happen(tries, killed(1, signal.SIGTERM))
        story.happen(tries, gone(1))
    assert (tries, story.state.exit_code, story.view.restarts_left) == (most + 1, 1, 0)
