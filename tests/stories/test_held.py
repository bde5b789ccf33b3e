"""A worker is held in the kernel: it is not healthy as long as it is, and nobody restarts over it."""

from __future__ import annotations

from supervisor.plan import RestartRules, WatchdogRules
from tests.stories.story import (
    asked_to_stop,
    due,
    exited,
    gone,
    held,
    job,
    killed,
    let_go,
    running,
    said_ready,
    seen,
    silent,
)


def test_who_is_held_is_not_ready_and_is_again_when_it_is_let_go() -> None:
    story = running(job(workers=2)).tell(
        (5.0, held(1), "", "worker.uninterruptible rank=1 pid=1001 limit_ms=60000.0 over=false",
         "group.degraded ready=1"),
        (6.0, held(1)),
    )  # fmt: skip
    assert not story.ready.ok
    assert [(worker.state, worker.since, worker.why) for worker in story.view.workers] == [
        ("ready", 0.001, ""), ("uninterruptible", 5.0, "is in uninterruptible sleep: pid 1000 in nfs_wait")
    ]  # fmt: skip
    story.tell(
        (7.0, let_go(1), "", "worker.uninterruptible rank=1 over=true; group.ready duration_ms=2000.0"),
        (8.0, let_go(1)),
    )
    assert story.ready.ok


def test_of_two_that_are_held_the_last_one_makes_the_group_ready() -> None:
    running(job(workers=2)).tell(
        (5.0, held(0), "", "worker.uninterruptible; group.degraded"),
        (5.0, held(1), "", "worker.uninterruptible"),
        (6.0, let_go(0), "", "worker.uninterruptible"),
        (7.0, let_go(1), "", "worker.uninterruptible; group.ready"),
    )


def test_a_word_from_who_is_held_counts_when_it_is_let_go() -> None:
    running(job(watchdog=WatchdogRules(start_timeout=60.0))).tell(
        (5.0, held(0), "", "worker.uninterruptible"),
        (6.0, said_ready(0), "", "worker.ready"),
        (7.0, let_go(0), "", "worker.uninterruptible; group.ready"),
    )


def test_one_that_ends_while_it_is_held_is_a_failure_like_any_other() -> None:
    story = running(job(workers=2, restart=RestartRules(scope="worker"))).tell(
        (5.0, held(1), "", "worker.uninterruptible; group.degraded"),
        (6.0, killed(1, 9), "", "worker.exited; worker.failed; group.restarting rank=1"),
        (6.0, held(1)),
        (6.0, let_go(1)),
        (6.0, gone(1), "start 1#1 after 1"),
    )
    assert story.view.ready_workers == 1


def test_nobody_restarts_over_one_that_does_not_die_of_sigkill() -> None:
    story = running(job()).tell(
        (5.0, held(0), "", "worker.uninterruptible; group.degraded"),
        (6.0, silent(0), "timer condemned:0 8; look at 0#0", "worker.heartbeat_missed"),
        (6.0, seen(0), "SIGKILL tree 0#0; timer condemned:0 16"),
        (16.0, due("condemned:0"), "no timer condemned:0; SIGTERM tree 0#0; timer ladder 46",
         "worker.unkillable; group.stopping"),
        (46.0, due("ladder"), "SIGKILL tree 0#0; timer ladder 56", "worker.killed"),
        (56.0, due("ladder"), "", "group.failed exit_code=1"),
        (60.0, let_go(0), "", "worker.uninterruptible over=true"),
        (60.0, exited(0), "", "worker.exited by=heartbeat; worker.failed"),
    )  # fmt: skip
    assert [worker.state for worker in story.view.workers] == ["unkillable"]


def test_in_a_stop_it_is_told_of_and_makes_nobody_ready() -> None:
    story = running(job(workers=2)).tell(
        (5.0, asked_to_stop(), "SIGTERM tree 0#0 1#0; timer ladder 35", "group.stopping"),
        (6.0, held(0), "", "worker.uninterruptible"),
        (7.0, let_go(0), "", "worker.uninterruptible"),
    )
    assert story.view.ready_workers == 0
