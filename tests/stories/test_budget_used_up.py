"""The restarts are used up: the group gives up, and its exit code is that of the failure it gave up on."""

from __future__ import annotations

import signal

from supervisor.plan import RestartRules
from tests.stories.story import asked_to_start, exited, formed, gone, job, killed, running, started


def test_the_second_crash_is_one_too_many() -> None:
    story = running(job(restart=RestartRules(max_restarts=1))).tell(
        (1.0, exited(0, code=3), "timer ladder 31",
         "worker.exited; worker.failed; group.restarting restarts_left=0"),
        (1.0, gone(0), "no timer ladder; form world 1", "group.starting"),
        (1.0, formed(), "start 0#1 after 1"),
        (1.1, started(0), "", "worker.started; group.started; group.ready"),
        (2.0, exited(0, code=4), "timer ladder 32", "worker.exited; worker.failed exit_code=4; group.gave_up"),
        (2.1, gone(0), "no timer ladder", "group.failed exit_code=4"),
    )  # fmt: skip
    assert story.over()
    assert story.state.exit_code == 4
    assert story.view.why == "rank 0 exited with code 4 after 0.9 s; not restarted: the one restart is used"
    assert story.view.last_failure is not None
    assert (story.view.last_failure.attempt, story.view.last_failure.exit_code) == (1, 4)


def test_a_group_without_restarts_fails_at_the_first_crash_with_128_and_the_signal() -> None:
    story = running(job(restart=RestartRules(max_restarts=0))).tell(
        (
            1.0,
            killed(0, signal.SIGKILL),
            "timer ladder 31",
            "worker.exited; worker.failed signal=SIGKILL; group.gave_up",
        ),
        (1.0, gone(0), "no timer ladder", "group.failed exit_code=137"),
    )  # fmt: skip
    assert story.view.why.endswith("not restarted: max_restarts is 0")


def test_without_a_limit_it_never_gives_up() -> None:
    story = running(job(restart=RestartRules(max_restarts=-1)))
    for number in range(50):
        story.ends(1.0 + number, 0, code=1).runs(1.5 + number)
    assert (story.view.restarts, story.view.restarts_left, story.view.attempt) == (50, None, 50)


def test_started_anew_by_somebody_it_has_its_whole_budget_again() -> None:
    story = running(job(restart=RestartRules(max_restarts=0)), when_done="stay").ends(1.0, 0, code=3)
    assert story.state.exit_code == 3
    story.tell((2.0, asked_to_start(), "form world 1", "group.starting attempt=1"))
    story.runs(2.0).ends(3.0, 0)
    assert story.view.succeeded
    assert story.view.last_failure is None
    assert story.state.exit_code == 0


def test_a_failure_that_exits_with_zero_is_still_a_failure() -> None:
    """``success_exit_codes = [7]``: 0 is none of them, and the daemon's own exit must not look like success."""
    rules = RestartRules(max_restarts=0, success_exit_codes=frozenset({7}))
    story = running(job(restart=rules)).ends(1.0, 0, code=0)
    assert story.state.exit_code == 1
