"""Pauses before restarts grow with every failure in a row, stay below their maximum, and replay from a seed."""

from __future__ import annotations

import pytest

from supervisor.plan import Backoff, RestartRules
from tests.stories.story import Story, due, exited, formed, gone, job, running, started

BACKOFF = Backoff(initial=1.0, factor=2.0, max=10.0, jitter=0.25)


def failing(backoff: Backoff, seed: int = 1) -> Story:
    return running(job(restart=RestartRules(max_restarts=-1, backoff=backoff)), seed=seed)


def pauses(story: Story, times: int) -> list[float]:
    """Let the worker crash so often, a second after it has started; the pauses before its restarts, in seconds."""
    found = []
    for _ in range(times):
        story.ends(story.now + 1.0, 0, code=1)
        found.append(story.timers[story.group.plan.name, "backoff"] - story.now)
        story.happen(story.now + found[-1], due("backoff"))
        story.runs(story.now)
    return found


def test_a_pause_begins_when_everything_is_gone() -> None:
    failing(Backoff(initial=1.0, jitter=0.0)).tell(
        (5.0, exited(0, code=1), "timer ladder 35",
         "worker.exited; worker.failed; group.restarting pause_ms=1000.0"),
        (7.0, gone(0), "no timer ladder; timer backoff 8", "group.backing_off pause_ms=1000.0"),
        (8.0, due("backoff"), "form world 1", "group.starting"),
        (8.0, formed(), "start 0#1 after 1"),
        (8.1, started(0), "", "worker.started; group.started; group.ready"),
    )  # fmt: skip


def test_each_pause_is_twice_the_last_and_none_above_the_maximum() -> None:
    assert pauses(failing(Backoff(initial=1.0, factor=2.0, max=10.0, jitter=0.0)), 7) == pytest.approx(
        [1, 2, 4, 8, 10, 10, 10]
    )


@pytest.mark.parametrize("seed", range(20))
def test_jitter_only_shortens_a_pause_by_a_quarter_at_most(seed: int) -> None:
    for pause, longest in zip(pauses(failing(BACKOFF, seed), 7), [1, 2, 4, 8, 10, 10, 10], strict=True):
        assert 0.75 * longest <= pause + 1e-9
        assert pause <= longest + 1e-9


def test_the_same_seed_replays_the_same_pauses_and_another_does_not() -> None:
    assert pauses(failing(BACKOFF, seed=5), 6) == pauses(failing(BACKOFF, seed=5), 6)
    assert pauses(failing(BACKOFF, seed=5), 6) != pauses(failing(BACKOFF, seed=6), 6)


def test_without_an_initial_pause_there_is_none() -> None:
    failing(Backoff(initial=0.0)).tell(
        (5.0, exited(0, code=1), "timer ladder 35", "worker.exited; worker.failed; group.restarting pause_ms=0"),
        (5.0, gone(0), "no timer ladder; form world 1", "group.starting"),
    )


def test_the_view_tells_when_the_next_attempt_starts() -> None:
    story = failing(Backoff(initial=1.0, jitter=0.0)).ends(5.0, 0, code=1)
    assert (story.view.phase, story.view.next, story.view.next_at) == ("backing_off", "starts attempt 1", 6.0)
    assert [worker.state for worker in story.view.workers] == ["failed"]
