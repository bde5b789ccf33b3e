"""With a window, the budget is for any such stretch of time; being healthy for long enough makes it whole again."""

from __future__ import annotations

from supervisor.plan import Backoff, RestartRules
from tests.stories.story import due, exited, gone, job, running

TWICE_A_MINUTE = RestartRules(max_restarts=2, window=60.0, reset_after=600.0)


def test_two_crashes_a_minute_are_allowed_for_ever() -> None:
    story = running(job(restart=TWICE_A_MINUTE))
    for number in range(20):
        story.ends(1.0 + number * 30.5, 0, code=1).runs(1.0 + number * 30.5)
    assert story.view.restarts == 20
    assert story.view.phase == "running"


def test_the_third_within_a_minute_is_one_too_many() -> None:
    story = running(job(restart=TWICE_A_MINUTE)).ends(10.0, 0, code=1).runs(10.0).ends(20.0, 0, code=1).runs(20.0)
    assert story.view.restarts_left == 0
    story.tell(
        (69.9, exited(0, code=1), "timer ladder 99.9", "worker.exited; worker.failed; group.gave_up"),
        (69.9, gone(0), "no timer ladder", "group.failed"),
    )
    assert story.view.why.endswith("not restarted: all 2 restarts are used within 60 s")


def test_a_restart_is_forgotten_when_it_is_a_window_old() -> None:
    story = running(job(restart=TWICE_A_MINUTE)).ends(10.0, 0, code=1).runs(10.0).ends(20.0, 0, code=1).runs(20.0)
    story.tell((70.0, exited(0, code=1), "timer ladder 100", "worker.exited; worker.failed; group.restarting"))
    assert story.view.restarts_left == 0  # those of 20 and of now


def test_healthy_for_reset_after_the_window_starts_afresh() -> None:
    rules = RestartRules(max_restarts=1, window=3600.0, reset_after=100.0)
    story = running(job(restart=rules)).ends(1.0, 0, code=1).runs(1.0)
    story.tell((101.1, exited(0, code=1), "timer ladder 131.1", "worker.exited; worker.failed; group.restarting"))
    assert story.view.restarts == 2


def test_healthy_for_reset_after_does_not_give_back_a_budget_for_life() -> None:
    """As with torch: ``max_restarts`` counts over the whole run when there is no window."""
    story = running(job(restart=RestartRules(max_restarts=1, reset_after=100.0))).ends(1.0, 0, code=1).runs(1.0)
    story.tell((901.0, exited(0, code=1), "timer ladder 931", "worker.exited; worker.failed; group.gave_up"))


def test_healthy_for_less_than_reset_after_changes_nothing_however_late_it_is() -> None:
    rules = RestartRules(max_restarts=1, window=3600.0, reset_after=100.0)
    story = running(job(restart=rules)).ends(1000.0, 0, code=1).runs(1000.0)
    story.tell((1099.0, exited(0, code=1), "timer ladder 1129", "worker.exited; worker.failed; group.gave_up"))


def test_healthy_for_reset_after_the_backoff_starts_afresh() -> None:
    rules = RestartRules(max_restarts=-1, reset_after=100.0, backoff=Backoff(initial=1.0, jitter=0.0))
    story = running(job(restart=rules))
    for at, pause in ((10.0, 1.0), (20.0, 2.0), (30.0, 4.0), (200.0, 1.0)):
        story.tell(
            (at, exited(0, code=1), f"timer ladder {at + 30:g}",
             f"worker.exited; worker.failed; group.restarting pause_ms={pause * 1000}"),
            (at, gone(0), f"no timer ladder; timer backoff {at + pause:g}", "group.backing_off"),
            (at + pause, due("backoff"), f"form world {story.view.attempt + 1}", "group.starting"),
        ).runs(at + pause)  # fmt: skip
