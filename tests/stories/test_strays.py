"""A worker ends and leaves processes behind: they are ended by a ladder of their own before its slot is free again."""

from __future__ import annotations

from supervisor.core.state import Phase
from supervisor.plan import RestartRules, Rung, StopRules
from tests.stories.story import (
    Story,
    asked_to_stop,
    due,
    exited,
    formed,
    gone,
    job,
    killed,
    running,
    started,
    strays,
    up,
)


def test_after_a_crash_the_next_attempt_waits_until_they_are_gone() -> None:
    running(job(workers=2)).tell(
        (1.0, exited(0, code=1), "SIGTERM tree 1#0; timer ladder 31",
         "worker.exited; worker.failed; group.restarting; group.stopping"),
        (1.0, strays(0, "4711 python3", "4712 sh"), "SIGTERM tree 0#0",
         "worker.orphan_killed rank=0 count=2 signal=SIGTERM"),
        (1.1, killed(1, 15), "", "worker.exited"),
        (1.1, gone(1)),
        (31.0, due("ladder"), "SIGKILL tree 0#0; timer ladder 41", "worker.killed rank=0"),
        (31.0, gone(0), "no timer ladder; form world 1", "group.starting"),
    )  # fmt: skip


def test_while_the_others_run_on() -> None:
    """Rank 0 has ended well and left something behind: a ladder for it alone, and no failure."""
    story = running(job(workers=2)).tell(
        (1.0, exited(0), "", "worker.exited"),
        (1.1, strays(0, "4711 python3"), "timer strays:0 31.1; SIGTERM tree 0#0", "worker.orphan_killed count=1"),
        (1.2, strays(0, "4711 python3")),
        (31.1, due("strays:0"), "SIGKILL tree 0#0; timer strays:0 41.1", "worker.killed rank=0 signal=SIGKILL"),
        (31.2, gone(0), "no timer strays:0"),
        (32.0, exited(1), "", "worker.exited"),
        (32.0, gone(1), "", "group.succeeded"),
    )
    assert story.phase_of() is Phase.FINISHED


def test_while_others_are_still_being_started() -> None:
    story = Story(job(workers=2)).tell(
        (0.0, up(), "form world 0", "group.starting"),
        (0.0, formed(), "start 0#0 1#0"),
        (0.1, started(0), "", "worker.started"),
        (0.2, exited(0), "", "worker.exited"),
        (0.2, strays(0, "4711 sleep"), "timer strays:0 30.2; SIGTERM tree 0#0", "worker.orphan_killed"),
        (0.3, started(1), "", "worker.started; group.started; group.ready"),
        (0.4, gone(0), "no timer strays:0"),
    )
    assert story.ready.ok


def test_a_stop_takes_them_along() -> None:
    """Its ladder takes the place of their own. Rank 1 has just ended and needs no signal."""
    running(job(workers=3)).tell(
        (1.0, exited(0), "", "worker.exited"),
        (1.0, strays(0, "4711 sleep"), "timer strays:0 31; SIGTERM tree 0#0", "worker.orphan_killed"),
        (2.0, exited(1), "", "worker.exited"),
        (2.0, asked_to_stop(), "no timer strays:0; SIGTERM tree 0#0 2#0; timer ladder 32", "group.stopping workers=2"),
    )


def test_their_ladder_has_all_the_rungs_of_the_groups_own() -> None:
    ladder = StopRules((Rung(2, 5.0), Rung(15, 6.0), Rung(9, 7.0)), scope="leader")
    story = running(job(workers=2, stop=ladder)).tell(
        (1.0, exited(0), "", "worker.exited"),
        (2.0, strays(0, "4711 sleep"), "timer strays:0 7; SIGINT tree 0#0", "worker.orphan_killed signal=SIGINT"),
        (7.0, due("strays:0"), "SIGTERM tree 0#0; timer strays:0 13", "worker.killed signal=SIGTERM"),
        (13.0, due("strays:0"), "SIGKILL tree 0#0; timer strays:0 20", "worker.killed signal=SIGKILL"),
    )
    assert story.said[0].message == "rank 0 was still there after 12 s: sent SIGKILL"


def test_when_they_cannot_be_killed_the_group_fails_and_stops() -> None:
    story = running(job(workers=2)).tell(
        (1.0, exited(0), "", "worker.exited"),
        (1.0, strays(0, "4711 python3"), "timer strays:0 31; SIGTERM tree 0#0", "worker.orphan_killed"),
        (31.0, due("strays:0"), "SIGKILL tree 0#0; timer strays:0 41", "worker.killed"),
        (41.0, due("strays:0"), "SIGTERM tree 1#0; timer ladder 71",
         "worker.unkillable rank=0; group.stopping workers=1"),
        (41.1, exited(1), "", "worker.exited"),
        (41.1, gone(1)),
        (71.0, due("ladder"), "SIGKILL tree 0#0; timer ladder 81", "worker.killed"),
        (81.0, due("ladder"), "", "group.failed exit_code=1"),
    )  # fmt: skip
    assert story.view.last_failure is not None
    assert story.view.last_failure.reason == "rank 0 left processes that cannot be killed"
    assert story.view.workers[0].state == "unkillable"


def test_a_rank_that_restarts_alone_waits_for_its_own_strays() -> None:
    running(job(workers=2, restart=RestartRules(scope="worker"))).tell(
        (1.0, exited(0, code=1), "", "worker.exited; worker.failed; group.restarting; group.degraded"),
        (1.0, strays(0, "4711 sleep"), "timer strays:0 31; SIGTERM tree 0#0", "worker.orphan_killed"),
        (2.0, gone(0), "no timer strays:0; start 0#1 after 1"),
    )


def test_a_report_of_strays_is_about_a_worker_that_has_ended() -> None:
    story = running(job())
    before = story.state
    story.tell((1.0, strays(0, "4711 sleep")))
    assert story.state is before


def test_strays_of_what_could_not_be_killed_get_the_last_rung() -> None:
    running(job()).tell(
        (1.0, asked_to_stop(), "SIGTERM tree 0#0; timer ladder 31", "group.stopping"),
        (31.0, due("ladder"), "SIGKILL tree 0#0; timer ladder 41", "worker.killed"),
        (41.0, due("ladder"), "", "worker.unkillable; group.failed"),
        (50.0, killed(0, 9), "", "worker.exited"),
        (50.0, strays(0, "4711 sleep"), "SIGKILL tree 0#0", "worker.orphan_killed signal=SIGKILL"),
        (51.0, gone(0)),
    )
