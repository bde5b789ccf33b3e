"""A stop comes during the pause before a restart: the pause is called off and nothing starts."""

from __future__ import annotations

from supervisor.plan import Backoff, RestartRules
from tests.stories.story import Story, asked_to_stop, end, exited, fired, gone, job, running

PAUSED = RestartRules(backoff=Backoff(initial=5.0, jitter=0.0))


def paused() -> Story:
    return running(job(restart=PAUSED)).ends(1.0, 0, code=1)


def test_it_is_stopped_at_once_and_that_is_a_success() -> None:
    story = paused().tell((2.0, end("SIGTERM"), "no timer backoff", "daemon.stopping; group.stopped"))
    assert story.over()
    assert story.state.exit_code == 0


def test_a_timer_that_was_on_its_way_already_starts_nothing() -> None:
    story = paused().tell((6.0, asked_to_stop(), "no timer backoff", "group.stopped"))
    before = story.state
    story.tell((6.0, fired("backoff", 6.0)))
    assert story.state is before


def test_a_stop_that_comes_while_the_crashed_attempt_is_being_cleared_away_wins() -> None:
    story = running(job(workers=2, restart=PAUSED)).tell(
        (1.0, exited(0, code=1), "SIGTERM tree 1#0; timer ladder 31",
         "worker.exited; worker.failed; group.restarting; group.stopping"),
        (1.5, asked_to_stop("operator")),
    )  # fmt: skip
    assert story.view.why == "operator"
    story.tell(
        (2.0, gone(0)),
        (2.0, exited(1), "", "worker.exited"),
        (2.0, gone(1), "no timer ladder", "group.stopped reason=operator"),
    )  # fmt: skip


def test_a_group_that_has_failed_for_good_stays_failed() -> None:
    story = running(job(restart=RestartRules(max_restarts=0))).tell(
        (1.0, exited(0, code=3), "timer ladder 31", "worker.exited; worker.failed; group.gave_up"),
        (1.5, asked_to_stop("operator")),
        (2.0, gone(0), "no timer ladder", "group.failed exit_code=3"),
        (3.0, asked_to_stop("operator")),
    )
    assert story.state.exit_code == 3
