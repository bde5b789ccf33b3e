"""A worker cannot be started: what can never work fails at once, what the machine is short of is tried again later."""

from __future__ import annotations

from supervisor.plan import Backoff, RestartRules
from tests.stories.story import Story, due, formed, gone, job, killed, not_started, refused, running, started, up


def begun(workers: int, restart: RestartRules | None = None) -> Story:
    return Story(job(workers=workers, restart=restart)).tell(
        (0.0, up(), "form world 0", "group.starting"),
        (0.0, formed(), "start " + " ".join(f"{rank}#0" for rank in range(workers))),
    )


def test_a_command_that_is_not_found_is_not_retried() -> None:
    story = begun(1).tell(
        (0.1, not_started(0, "permanent", "'tarin.py': no such file", exit_code=127), "",
         "worker.failed rank=0 root_cause=true exit_code=127; group.failed exit_code=127"),
    )  # fmt: skip
    assert story["job"].why == "rank 0: 'tarin.py': no such file; not restarted: it can never start"
    assert story.view.why == "rank 0: ...: no such file; not restarted: it can never start"  # probes are public
    assert [worker.state for worker in story.view.workers] == ["failed"]
    assert story.state.exit_code == 127


def test_what_has_started_already_is_stopped_then() -> None:
    begun(3).tell(
        (0.1, started(0), "", "worker.started"),
        (0.2, not_started(1, "permanent", exit_code=126), "SIGTERM tree 0#0; timer ladder 30.2; abandon starts",
         "worker.failed; group.stopping"),
        (0.2, not_started(2, "abandoned")),
        (0.3, killed(0, 15), "", "worker.exited"),
        (0.3, gone(0), "no timer ladder", "group.failed exit_code=126"),
    )  # fmt: skip


def test_a_shortage_is_waited_out_for_at_least_a_second_and_longer_each_time() -> None:
    """EAGAIN, EMFILE, ENOMEM: even a group whose backoff is none must not hammer a machine that is short."""
    story = begun(1, RestartRules(backoff=Backoff(initial=0.0, jitter=0.0)))
    for at, pause in ((1.0, 1.0), (10.0, 2.0), (20.0, 4.0)):
        attempt = story.view.attempt
        story.tell(
            (at, not_started(0, "transient", "fork: EAGAIN"), f"timer backoff {at + pause:g}",
             "worker.failed exit_code=75; group.restarting cause=start; group.backing_off"),
            (at + pause, due("backoff"), f"form world {attempt + 1}", "group.starting"),
            (at + pause, formed(), f"start 0#{attempt + 1} after {attempt + 1}"),
        )  # fmt: skip
    story.tell((30.0, not_started(0, "transient", "fork: EAGAIN"), "",
                "worker.failed; group.gave_up; group.failed exit_code=75"))  # fmt: skip


def test_jitter_does_not_make_the_pause_shorter_than_a_second() -> None:
    for seed in range(20):
        story = Story(job(restart=RestartRules(backoff=Backoff(jitter=1.0))), seed=seed)
        story.happen(0.0, up())
        story.happen(0.0, refused("the store is away"))
        assert story.timers["job", "backoff"] >= 1.0


def test_a_longer_pause_of_the_group_itself_is_kept() -> None:
    begun(1, RestartRules(backoff=Backoff(initial=7.0, jitter=0.0))).tell(
        (1.0, not_started(0, "transient"), "timer backoff 8", "worker.failed; group.restarting; group.backing_off"),
    )


def test_after_a_shortage_what_has_started_is_stopped_before_the_next_attempt() -> None:
    begun(2).tell(
        (0.1, started(0), "", "worker.started"),
        (0.2, not_started(1, "transient"), "SIGTERM tree 0#0; timer ladder 30.2",
         "worker.failed; group.restarting; group.stopping"),
        (0.3, killed(0, 15), "", "worker.exited"),
    )  # fmt: skip


def test_a_start_called_off_though_nobody_asked_for_it_counts_as_a_shortage() -> None:
    story = begun(1)
    story.happen(0.1, not_started(0, "abandoned"))
    assert story.view.phase == "backing_off"


def test_no_world_is_a_shortage_too() -> None:
    story = Story(job(restart=RestartRules(max_restarts=1, backoff=Backoff(jitter=0.0)))).tell(
        (0.0, up(), "form world 0", "group.starting"),
        (0.1, refused("no free port"), "timer backoff 1.1", "group.restarting cause=start; group.backing_off"),
        (1.1, due("backoff"), "form world 1", "group.starting"),
        (1.2, refused("no free port"), "", "group.gave_up; group.failed exit_code=75"),
    )
    assert story.view.last_failure is not None
    assert (story.view.last_failure.rank, story.view.last_failure.exit_code) == (-1, 75)


def test_a_world_is_asked_for_once_and_answered_once() -> None:
    story = running(job())
    before = story.state
    story.tell((1.0, formed()), (1.0, refused("late")))
    assert story.state is before
