"""A stop comes while workers are being started: every one that was asked for is found and ended."""

from __future__ import annotations

from supervisor.core.state import Phase
from tests.stories.story import Story, asked_to_stop, end, formed, gone, job, killed, not_started, started, up


def begun(workers: int) -> Story:
    return Story(job(workers=workers)).tell(
        (0.0, up(), "form world 0", "group.starting"),
        (0.0, formed(), "start " + " ".join(f"{rank}#0" for rank in range(workers))),
    )


def test_started_workers_are_signalled_and_the_others_called_off() -> None:
    story = begun(3).tell(
        (0.1, started(0), "", "worker.started"),
        (0.2, end("SIGTERM"), "SIGTERM tree 0#0; timer ladder 30.2; abandon starts", "daemon.stopping; group.stopping"),
        (0.2, not_started(1, "abandoned")),
        (0.2, not_started(2, "abandoned")),
        (0.3, killed(0, 15), "", "worker.exited by=daemon"),
        (0.3, gone(0), "no timer ladder", "group.stopped duration_ms=100.0 reason=SIGTERM"),
    )
    assert [worker.state for worker in story.view.workers] == ["stopped"] * 3
    assert story.over()
    assert story.state.exit_code == 0


def test_a_worker_past_recall_is_signalled_as_soon_as_it_runs() -> None:
    """It was being started in the very moment of the stop: on the last rung it gets that rung's signal."""
    begun(2).tell(
        (0.1, asked_to_stop(), "timer ladder 30.1; abandon starts"),
        (0.2, started(0), "SIGTERM tree 0#0", "worker.started"),
        (30.1, asked_to_stop(hurry=True), "SIGKILL tree 0#0; timer ladder 40.1", "worker.killed"),
        (30.2, started(1), "SIGKILL tree 1#0", "worker.started"),
        (30.3, killed(0, 9), "", "worker.exited"),
        (30.3, gone(0)),
        (30.3, killed(1, 9), "", "worker.exited"),
        (30.3, gone(1), "no timer ladder", "group.stopped"),
    )


def test_with_nobody_started_yet_it_is_over_when_all_starts_are_called_off() -> None:
    begun(2).tell(
        (0.1, asked_to_stop(), "timer ladder 30.1; abandon starts"),
        (0.1, not_started(0, "abandoned")),
        (0.1, not_started(1, "transient", "EAGAIN"), "no timer ladder", "group.stopped"),
    )


def test_before_a_world_is_formed_it_is_over_at_once() -> None:
    story = Story(job()).tell(
        (0.0, up(), "form world 0", "group.starting"),
        (0.1, asked_to_stop(), "", "group.stopped duration_ms=0"),
        (0.2, formed()),
    )
    assert story.phase_of() is Phase.FINISHED


def test_before_the_daemon_is_up_nothing_ever_starts() -> None:
    story = Story(job()).tell((0.0, end("SIGINT"), "", "daemon.stopping; group.stopped"), (0.1, up()))
    assert story.over()
