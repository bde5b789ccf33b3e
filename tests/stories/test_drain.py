"""``drain_delay``: told to stop, the daemon first says that it is not ready, and only then stops anything."""

from __future__ import annotations

from supervisor.core.groups import DrainOver
from tests.stories.story import Story, end, exited, gone, job, killed, running


def draining(*, at: float = 10.0) -> Story:
    return running(job(workers=2), drain_delay=5.0).tell(
        (at, end("SIGTERM"), "timer drain 15", "daemon.draining duration_ms=5000.0 reason=SIGTERM")
    )


def test_nothing_but_readiness_changes_until_the_delay_is_over() -> None:
    story = draining()
    assert story.ready.reasons == ("draining: SIGTERM",)
    assert story["job"].is_ready
    story.now = 15.0
    story.tell((15.0, story.drain_over(), "SIGTERM tree 0#0 1#0; timer ladder 45", "daemon.stopping; group.stopping"))


def test_a_worker_that_crashes_meanwhile_is_restarted_as_ever() -> None:
    draining().tell(
        (11.0, exited(0, code=1), "SIGTERM tree 1#0; timer ladder 41",
         "worker.exited; worker.failed; group.restarting; group.stopping"),
        (11.0, gone(0)),
        (11.0, killed(1, 15), "", "worker.exited"),
        (11.0, gone(1), "no timer ladder; form world 1", "group.starting"),
    )  # fmt: skip


def test_when_all_groups_have_finished_meanwhile_there_is_nothing_to_wait_for() -> None:
    story = draining().ends(11.0, 0, 1)
    assert story.over()


def test_a_second_request_in_a_hurry_does_not_wait_for_the_delay() -> None:
    draining().tell(
        (11.0, end("SIGTERM")),
        (12.0, end("SIGTERM", hurry=True),
         "no timer drain; SIGTERM tree 0#0 1#0; timer ladder 42; SIGKILL tree 0#0 1#0; timer ladder 22",
         "daemon.stopping; group.stopping; worker.killed; worker.killed"),
        (15.0, DrainOver(15.0)),
    )  # fmt: skip


def test_a_drain_timer_of_another_instant_means_nothing() -> None:
    story = draining()
    before = story.state
    story.tell((14.0, DrainOver(14.0)))
    assert story.state is before
