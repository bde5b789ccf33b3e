"""``policy``: never restarts nothing, on-failure failures only, always what has ended well too."""

from __future__ import annotations

from supervisor.plan import Backoff, RestartRules
from tests.stories.story import due, exited, gone, job, running


def test_never_fails_at_the_first_crash_without_giving_up_anything() -> None:
    story = running(job(restart=RestartRules(policy="never"))).tell(
        (1.0, exited(0, code=1), "timer ladder 31", "worker.exited; worker.failed"),
        (1.0, gone(0), "no timer ladder", "group.failed exit_code=1"),
    )
    assert story.view.why.endswith('not restarted: the restart policy is "never"')


def test_never_lets_success_be() -> None:
    running(job(restart=RestartRules(policy="never"))).tell(
        (1.0, exited(0), "", "worker.exited"),
        (1.0, gone(0), "", "group.succeeded restarts=0"),
    )


def test_always_starts_again_when_all_have_ended_well_and_uses_the_budget() -> None:
    story = running(job(workers=2, restart=RestartRules(policy="always", max_restarts=1))).tell(
        (1.0, exited(0), "", "worker.exited"),
        (1.0, gone(0)),
        (2.0, exited(1), "", "worker.exited"),
        (2.0, gone(1), "form world 1", "group.restarting cause=finished restarts_left=0; group.starting"),
    )
    assert story.view.last_failure is None
    story.runs(2.0).ends(3.0, 0).tell(
        (4.0, exited(1), "", "worker.exited"),
        (4.0, gone(1), "", "group.gave_up; group.failed exit_code=1"),
    )


def test_always_pauses_before_it_starts_again() -> None:
    running(job(restart=RestartRules(policy="always", backoff=Backoff(initial=2.0, jitter=0.0)))).tell(
        (1.0, exited(0), "", "worker.exited"),
        (1.0, gone(0), "timer backoff 3", "group.restarting cause=finished pause_ms=2000.0; group.backing_off"),
        (3.0, due("backoff"), "form world 1", "group.starting"),
    )


def test_always_after_a_long_run_begins_with_the_first_pause_again() -> None:
    rules = RestartRules(
        policy="always", max_restarts=-1, reset_after=100.0, backoff=Backoff(initial=2.0, jitter=0.0)
    )  # fmt: skip
    story = running(job(restart=rules))
    for at, pause in ((150.0, 2.0), (190.0, 4.0), (290.0, 8.0), (399.0, 2.0)):
        story.ends(at, 0)
        assert story.timers["job", "backoff"] == at + pause
        story.happen(at + pause, due("backoff"))
        story.runs(at + pause)


def test_always_with_scope_worker_starts_each_again_as_it_ends() -> None:
    story = running(job(workers=2, restart=RestartRules(policy="always", scope="worker"))).tell(
        (1.0, exited(0), "", "worker.exited; group.restarting cause=finished rank=0; group.degraded"),
        (1.0, gone(0), "start 0#1 after 1"),
    )
    assert story.view.last_failure is None
