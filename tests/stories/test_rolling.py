"""A restart that somebody asks for goes through workers that serve each for itself, a few at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.core.state import Phase
from supervisor.plan import Backoff, GroupPlan, Probe, RestartRules, Rung, StopRules
from tests.stories.story import (
    Story,
    asked_to_roll,
    asked_to_stop,
    due,
    end,
    exited,
    formed,
    gone,
    held,
    job,
    killed,
    let_go,
    not_started,
    read_anew,
    ready,
    running,
    started,
    unready,
    up,
)


def serving(workers: int = 2, *, probe: bool = False, **rules: Any) -> GroupPlan:
    restart = RestartRules(**{"scope": "worker", "backoff": Backoff(5.0, jitter=0.0), **rules})
    return job(workers=workers, restart=restart, probe=Probe("http://h") if probe else None)


def other(plan: GroupPlan, **changes: Any) -> GroupPlan:
    return replace(plan, command=("other",), **changes)


def replaced(story: Story, at: float, *ranks: int) -> None:
    """These have been told to end, do so, and their replacements start."""
    for rank in ranks:
        story.happen(at, killed(rank, 15))
        story.happen(at, gone(rank))
        story.happen(at, started(rank))


def plans(story: Story) -> list[tuple[str, ...]]:
    """By which command each rank runs."""
    return [story.group.plan_by(rank).command for rank in range(story.group.plan.workers)]


def test_one_goes_after_the_other_and_the_group_stays_ready() -> None:
    plan = serving(2)
    story = running(plan).tell(
        (1.0, read_anew(other(plan)), "SIGTERM tree 0#0; timer condemned:0 31",
         "daemon.reloaded; group.rolling workers=2 replaced=0 over=false; worker.stopping rank=0 signal=SIGTERM"),
        (2.0, killed(0, 15), "no timer condemned:0", "worker.exited by=daemon"),
        (2.5, gone(0), "start 0#1"),
        (3.0, started(0), "SIGTERM tree 1#0; timer condemned:1 33", "worker.started; worker.stopping rank=1"),
        (4.0, killed(1, 15), "no timer condemned:1", "worker.exited by=daemon"),
        (4.5, gone(1), "start 1#2"),
    )  # fmt: skip
    assert story.ready.ok
    assert plans(story) == [("other",), ("other",)]
    story.tell((5.0, started(1), "", "worker.started; group.rolling replaced=2 over=true halted=false"))
    assert (story.group.plan, story.group.roll, story.group.next_plan) == (other(plan), None, None)
    assert story.view.restarts == 0


def test_a_replacement_has_to_be_ready_and_stay_so_before_the_next_one_is_taken() -> None:
    plan = replace(serving(2, probe=True), ready_after=2.0)
    story = running(plan)
    for rank in (0, 1):
        story.happen(1.0, ready(rank))
    story.happen(1.0, read_anew(other(plan)))
    story.tell(
        (2.0, killed(0, 15), "no timer condemned:0", "worker.exited"),
        (2.0, gone(0), "start 0#1"),
        (3.0, started(0), "", "worker.started"),
        (4.0, ready(0), "timer roll 6", "worker.ready"),
        (5.0, unready(0, "503"), "no timer roll", "worker.unready"),
        (6.0, ready(0), "timer roll 8", "worker.ready"),
        (8.0, due("roll"), "SIGTERM tree 1#0; timer condemned:1 38", "worker.stopping rank=1"),
    )
    assert story.ready.ok


def test_who_serves_is_drained_before_it_is_stopped() -> None:
    plan = serving(2, drain=3.0)
    story = running(plan).tell(
        (1.0, read_anew(other(plan)), "timer condemned:0 4", "daemon.reloaded; group.rolling"),
    )  # fmt: skip
    assert [(worker.state, worker.why) for worker in story.view.workers] == [
        ("draining", "is being replaced: its configuration has changed"),
        ("ready", ""),
    ]
    assert (story.view.ready_workers, story.ready.ok) == (1, True)
    story.tell((4.0, due("condemned:0"), "SIGTERM tree 0#0; timer condemned:0 34", "worker.stopping"))
    assert story.view.workers[0].state == "stopping"
    story.tell((34.0, due("condemned:0"), "SIGKILL tree 0#0; timer condemned:0 44", "worker.killed"))


def test_one_that_ends_while_it_is_drained_is_replaced_and_charged_to_nobody() -> None:
    plan = serving(2, drain=3.0)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    story.tell(
        (2.0, exited(0, code=3, unasked=True), "no timer condemned:0",
         "worker.exited by=itself; worker.failed root_cause=false"),
        (2.0, gone(0), "start 0#1"),
    )  # fmt: skip
    assert story.view.restarts == 0


def test_as_many_at_a_time_as_may_be_away() -> None:
    plan = serving(5, max_unavailable=2)
    story = running(plan)
    story.tell(
        (1.0, asked_to_roll("operator"),
         "SIGTERM tree 0#0; timer condemned:0 31; SIGTERM tree 1#0; timer condemned:1 31",
         "group.rolling reason=operator; worker.stopping rank=0; worker.stopping rank=1"),
    )  # fmt: skip
    replaced(story, 2.0, 1)
    assert [slot.condemned is not None for slot in story.group.live.values()] == [True, False, True, False, False]


def test_who_is_away_already_counts_and_is_replaced_first() -> None:
    """A crash loop that the new plan is to end does not hold it up either."""
    plan = serving(3)
    story = running(plan).ends(1.0, 2, code=1)
    assert "restart:2" in [name for _, name in story.timers]
    story.tell(
        (2.0, read_anew(other(plan)), "no timer restart:2; start 2#1", "daemon.reloaded; group.rolling; group.ready"),
        (3.0, started(2), "SIGTERM tree 0#0; timer condemned:0 33", "worker.started; worker.stopping rank=0"),
    )


def test_one_that_fails_elsewhere_meanwhile_counts_as_well() -> None:
    plan = serving(3)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    story.happen(1.5, exited(2, 1))
    replaced(story, 2.0, 0)
    assert story.group.roll is not None
    assert story.group.roll.taken == {2}, "it is the next, since it serves nobody"
    story.tell((3.0, gone(2), "start 2#2"))


def test_who_is_held_in_the_kernel_is_waited_for() -> None:
    plan = serving(2)
    story = running(plan)
    story.happen(1.0, held(0))
    story.tell((2.0, read_anew(other(plan)), "", "daemon.reloaded; group.rolling"))
    story.tell(
        (3.0, let_go(0), "SIGTERM tree 0#0; timer condemned:0 33",
         "worker.uninterruptible; group.ready; worker.stopping"),
    )  # fmt: skip


def test_a_replacement_that_fails_for_good_halts_the_roll_and_nobody_else_is_touched() -> None:
    plan = serving(3, fatal_exit_codes=frozenset({78}), drain=2.0)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    story.happen(3.0, due("condemned:0"))
    story.happen(3.0, killed(0, 15))
    story.happen(3.0, gone(0))
    story.tell(
        (4.0, started(0), "timer condemned:1 6", "worker.started"),
        (5.0, exited(0, code=78), "no timer condemned:1",
         "worker.exited; worker.failed exit_code=78; group.rolling over=true halted=true replaced=1"),
        (5.0, gone(0)),
    )  # fmt: skip
    assert [worker.state for worker in story.view.workers] == ["failed", "ready", "ready"]
    assert (story.view.ready_workers, story.ready.ok) == (2, True)
    assert plans(story) == [("other",), ("job",), ("job",)]


def test_replacements_have_a_budget_of_their_own() -> None:
    """What a bad release uses up is not missing to those that run on."""
    plan = serving(3, max_restarts=1)
    story = running(plan).ends(1.0, 2, code=1)
    story.happen(6.0, due("restart:2"))
    story.happen(6.0, started(2))
    story.happen(7.0, read_anew(other(plan)))
    story.happen(8.0, killed(0, 15))
    story.happen(8.0, gone(0))
    story.happen(8.0, started(0))
    story.happen(8.0, killed(1, 15))
    story.tell(
        (9.0, exited(0, code=1), "", "worker.exited; worker.failed; group.restarting rank=0 restarts_left=0"),
        (9.0, gone(0), "timer restart:0 14"),
        (14.0, due("restart:0"), "start 0#3 after 1"),
        (15.0, not_started(0, "permanent"), "", "worker.failed; group.rolling halted=true"),
    )
    story.tell((16.0, gone(1), "start 1#4 after 1"))
    assert plans(story) == [("other",), ("job",), ("job",)]
    assert story.view.restarts == 1


def halted(workers: int = 3, *, drain: float = 0.0) -> Story:
    """The replacement of rank 0 can never start, and nobody else has been touched."""
    plan = serving(workers, drain=drain)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    if drain:
        story.happen(1.0 + drain, due("condemned:0"))
    story.happen(5.0, killed(0, 15))
    story.happen(5.0, gone(0))
    return story.tell((6.0, not_started(0, "permanent"), "", "worker.failed; group.rolling halted=true replaced=1"))


def test_a_roll_that_has_halted_leaves_everybody_his_plan_and_the_next_one_begins_with_who_is_missing() -> None:
    story = halted()
    story.happen(7.0, exited(1, code=1))
    assert not story.ready.ok, "this one is away for no roll"
    story.tell((7.0, gone(1), "timer restart:1 12"), (12.0, due("restart:1"), "start 1#2 after 1"))
    assert plans(story) == [("other",), ("job",), ("job",)]
    story.tell((13.0, started(1), "", "worker.started; group.ready"))
    third = replace(serving(3), command=("third",))
    story.tell((14.0, read_anew(third), "start 0#3", "daemon.reloaded; group.rolling"))
    story.tell((15.0, started(0), "SIGTERM tree 1#2; timer condemned:1 45", "worker.started; worker.stopping"))


def test_going_back_to_the_old_plan_restarts_only_who_has_left_it() -> None:
    plan = serving(3)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    replaced(story, 2.0, 0)
    story.tell((3.0, read_anew(plan), "", "daemon.reloaded; group.rolling"))
    story.tell((4.0, killed(1, 15), "no timer condemned:1", "worker.exited"), (4.0, gone(1), "start 1#2"))
    story.tell((5.0, started(1), "SIGTERM tree 0#1; timer condemned:0 35", "worker.started; worker.stopping rank=0"))
    replaced(story, 6.0, 0)
    assert (story.group.roll, story.group.plan, len(story.group.plans)) == (None, plan, 0)
    assert story.group.live[2].worker.attempt == 0


def test_one_that_was_only_drained_serves_on_when_its_plan_is_the_newest_again() -> None:
    plan = serving(2, drain=3.0)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    story.tell(
        (2.0, read_anew(plan), "no timer condemned:0", "daemon.reloaded; group.rolling; group.rolling over=true")
    )
    assert story.view.ready_workers == 2


def test_the_newest_of_two_plans_wins_and_who_runs_by_it_is_not_restarted_again() -> None:
    plan = serving(3)
    third = replace(plan, command=("third",))
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    story.happen(2.0, killed(0, 15))
    story.happen(2.0, gone(0))
    story.tell(
        (3.0, read_anew(third), "", "daemon.reloaded; group.rolling"),
        (4.0, started(0), "SIGTERM tree 0#1; timer condemned:0 34", "worker.started; worker.stopping rank=0"),
    )
    replaced(story, 5.0, 0)
    replaced(story, 7.0, 1, 2)
    assert (story.group.roll, story.group.plan) == (None, third)
    assert [slot.worker.attempt for slot in story.group.live.values()] == [2, 3, 4]


def test_who_asks_for_a_restart_during_a_roll_has_everybody_started_anew_from_then_on() -> None:
    """There may be another program under the old name since the roll began."""
    story = running(serving(3))
    story.happen(1.0, asked_to_roll())
    replaced(story, 2.0, 0)
    story.tell((6.0, asked_to_roll(), "", "group.rolling replaced=0"))
    replaced(story, 7.0, 1, 0, 2)
    assert story.group.roll is None
    assert [slot.worker.attempt for slot in story.group.live.values()] == [3, 2, 4]


def test_a_replacement_that_pauses_after_a_crash_does_not_hold_up_a_better_plan() -> None:
    plan = serving(3)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    replaced(story, 2.0, 0)
    story.happen(2.5, killed(1, 15))
    story.happen(3.0, exited(0, code=1))
    story.happen(3.0, gone(0))
    assert story.ready.ok
    story.tell((4.0, read_anew(replace(plan, command=("third",))), "no timer restart:0; start 0#2",
                "daemon.reloaded; group.rolling"))  # fmt: skip


def test_somebody_can_have_all_workers_started_anew_though_nothing_has_changed() -> None:
    """A new program under the old name; asked for again, a roll that has halted begins from the start."""
    plan = serving(2)
    story = running(plan).tell(
        (1.0, asked_to_roll(), "SIGTERM tree 0#0; timer condemned:0 31", "group.rolling; worker.stopping"),
        (2.0, asked_to_roll(), "", "group.rolling"),
    )
    replaced(story, 3.0, 0)
    story.happen(4.0, killed(1, 15))
    story.happen(4.0, gone(1))
    story.tell((5.0, not_started(1, "permanent"), "", "worker.failed; group.rolling halted=true"))
    story.tell((6.0, asked_to_roll(), "start 1#3", "group.rolling"))
    story.tell((7.0, started(1), "SIGTERM tree 0#1; timer condemned:0 37", "worker.started; worker.stopping"))


def test_a_wish_to_restart_everybody_holds_for_the_plans_that_come_meanwhile() -> None:
    plan = serving(2)
    story = running(plan)
    story.happen(1.0, asked_to_roll())
    replaced(story, 2.0, 0)
    story.tell((3.0, read_anew(serving(3)), "start 2#2", "daemon.reloaded; group.rolling"))
    story.happen(4.0, started(2))
    replaced(story, 5.0, 1)
    assert story.group.roll is None
    assert [slot.worker.attempt for slot in story.group.live.values()] == [1, 3, 2]


def test_more_workers_are_started_at_once_and_nobody_is_restarted_for_it() -> None:
    story = running(serving(2)).tell(
        (1.0, read_anew(serving(4)), "start 2#1; start 3#2", "daemon.reloaded; group.rolling"),
    )  # fmt: skip
    assert story.ready.ok
    assert story.group.world is not None
    assert (story.group.world.world_size, story.group.world.local_world_size) == (4, 4)
    story.tell((2.0, started(3), "", "worker.started"))
    story.tell((2.0, started(2), "", "worker.started; group.rolling over=true"))


def test_of_fewer_workers_the_highest_ranks_are_drained_and_nobody_else_is_touched() -> None:
    story = running(serving(4, drain=3.0))
    story.happen(0.5, exited(1, code=1))
    story.happen(0.5, gone(1))
    story.happen(0.6, exited(3, code=1))
    story.happen(0.6, gone(3))
    story.tell(
        (1.0, read_anew(serving(2, drain=3.0)), "no timer restart:3; timer condemned:2 4",
         "daemon.reloaded; group.rolling"),
        (4.0, due("condemned:2"), "SIGTERM tree 2#0; timer condemned:2 34", "worker.stopping rank=2"),
        (5.0, killed(2, 15), "no timer condemned:2", "worker.exited by=daemon"),
        (5.0, gone(2), "", "group.rolling over=true"),
        (5.5, due("restart:1"), "start 1#1"),
    )  # fmt: skip


def test_a_rank_that_is_no_more_and_just_starts_is_stopped_as_soon_as_it_runs() -> None:
    story = running(serving(3, backoff=Backoff(0.0))).ends(1.0, 2, code=1)
    story.happen(1.0, exited(1, code=1))
    story.happen(1.0, gone(1))
    story.happen(1.5, read_anew(serving(1, backoff=Backoff(0.0))))
    story.tell(
        (2.0, started(2), "SIGTERM tree 2#1; timer condemned:2 32", "worker.started; worker.stopping"),
        (2.0, not_started(1, "transient"), ""),
        (3.0, exited(2, code=1), "no timer condemned:2", "worker.exited"),
        (3.0, gone(2), "", "group.rolling over=true"),
    )


def test_who_had_ended_well_runs_again_by_the_new_plan_and_who_is_no_more_does_not() -> None:
    plan = serving(3)
    story = running(plan).ends(1.0, 0, 2)
    assert story.group.well == 2
    story.tell((2.0, read_anew(other(serving(2))), "start 0#1", "daemon.reloaded; group.rolling"))
    assert story.group.well == 0
    story.happen(3.0, started(0))
    replaced(story, 4.0, 1)
    assert (story.group.roll, story.group.well) == (None, 0)


def test_one_whose_last_processes_are_still_there_is_replaced_when_they_are_gone() -> None:
    story = running(serving(2))
    story.happen(1.0, exited(1, code=1))
    story.tell(
        (2.0, read_anew(other(serving(2))), "", "daemon.reloaded; group.rolling; group.ready"),
        (9.0, gone(1), "start 1#1"),
    )


def test_a_replacement_that_ends_well_is_done() -> None:
    plan = serving(2)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    replaced(story, 2.0, 0)
    story.happen(3.0, exited(0))
    story.happen(3.0, gone(0))
    story.happen(3.0, killed(1, 15))
    story.happen(3.0, gone(1))
    story.happen(4.0, started(1))
    assert story.group.roll is None
    story.tell((5.0, exited(1), "", "worker.exited"), (5.0, gone(1), "", "group.succeeded"))


def test_a_stop_ends_a_roll_and_the_next_start_is_by_the_newest_plan() -> None:
    plan = serving(2, drain=5.0)
    story = running(plan, when_done="stay")
    story.happen(1.0, read_anew(other(plan), when_done="stay"))
    story.tell(
        (2.0, asked_to_stop(), "no timer condemned:0; SIGTERM tree 0#0 1#0; timer ladder 32",
         "group.rolling halted=true reason=operator; group.stopping"),
        (3.0, killed(0, 15), "", "worker.exited by=daemon"),
        (3.0, gone(0)),
        (3.0, killed(1, 15), "", "worker.exited by=daemon"),
        (3.0, gone(1), "no timer ladder", "group.stopped"),
        (4.0, asked_to_roll(), "form world 1", "group.starting"),
    )  # fmt: skip
    assert (story.group.plan, len(story.group.plans)) == (other(plan), 0)


def test_the_end_of_the_daemon_stops_those_that_are_told_to_end_with_the_others() -> None:
    plan = serving(2)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    story.tell((2.0, end(), "no timer condemned:0; SIGTERM tree 0#0 1#0; timer ladder 32",
                "daemon.stopping; group.rolling halted=true; group.stopping"))  # fmt: skip


def test_a_daemon_that_drains_or_stops_begins_no_roll() -> None:
    story = running(serving(2), drain_delay=5.0)
    story.happen(1.0, end())
    story.tell((2.0, asked_to_roll(), "", ""))


def test_what_cannot_be_killed_halts_the_roll_and_keeps_its_slot() -> None:
    plan = serving(2)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    story.happen(31.0, due("condemned:0"))
    story.tell((41.0, due("condemned:0"), "", "worker.unkillable rank=0; group.rolling halted=true"))
    assert (story.ready.ok, story.phase_of()) == (True, Phase.RUNNING)
    story.tell((50.0, killed(0, 9), "no timer condemned:0", "worker.exited"), (50.0, gone(0), "start 0#1"))
    assert plans(story) == [("job",), ("job",)]


def test_when_nobody_else_is_left_a_replacement_that_fails_for_good_ends_the_group() -> None:
    story = running(serving(1))
    story.happen(1.0, asked_to_roll())
    story.happen(2.0, killed(0, 15))
    assert not story.ready.ok
    story.happen(2.0, gone(0))
    story.tell((3.0, not_started(0, "permanent", exit_code=127), "",
                "worker.failed; group.rolling halted=true; group.failed exit_code=127"))  # fmt: skip


def test_a_group_that_has_lost_a_rank_to_a_roll_does_not_succeed_without_it() -> None:
    story = halted(2)
    story.happen(7.0, exited(1))
    story.tell((7.0, gone(1), "", "group.failed exit_code=126"))


def test_limits_and_ladders_hold_at_once_for_everybody_also_in_a_roll() -> None:
    plan = serving(2)
    story = running(plan)
    story.happen(1.0, read_anew(other(plan)))
    replaced(story, 2.0, 0)
    quick = other(plan, stop=StopRules((Rung(2, 1.0), Rung(9, 5.0))))
    story.tell((3.0, read_anew(quick), "", "daemon.reloaded"))
    assert story.group.plan == replace(plan, stop=quick.stop)
    assert plans(story) == [("other",), ("job",)]
    replaced(story, 4.0, 1)
    assert (story.group.roll, story.group.plan) == (None, quick)


def test_a_group_that_comes_up_is_rolled_if_it_serves_already_and_begins_anew_if_it_does_not() -> None:
    plan = serving(2)
    story = Story(plan)
    story.happen(0.0, up())
    story.happen(0.0, formed())
    story.happen(0.1, started(0))
    story.happen(0.2, not_started(1, "transient"))
    story.tell((1.0, read_anew(other(plan)), "no timer restart:1; start 1#1", "daemon.reloaded; group.rolling"))
    story.tell(
        (2.0, not_started(1, "permanent"), "", "worker.failed; group.rolling halted=true; group.started; group.ready"),
    )
    story = Story(plan)
    story.happen(0.0, up())
    story.happen(0.0, formed())
    story.tell((1.0, read_anew(other(plan)), "timer ladder 31; abandon starts", "daemon.reloaded"))


def test_what_workers_share_cannot_be_rolled() -> None:
    plan = serving(2)
    for changed in (replace(plan, master_port=5000), replace(plan, restart=RestartRules())):
        story = running(plan)
        story.tell(
            (1.0, read_anew(changed), "SIGTERM tree 0#0 1#0; timer ladder 31", "daemon.reloaded; group.stopping")
        )


def test_a_gang_restarts_as_a_whole_when_somebody_asks_for_it() -> None:
    running(job(workers=2)).tell(
        (1.0, asked_to_roll(), "SIGTERM tree 0#0 1#0; timer ladder 31", "group.stopping reason=operator"),
    )  # fmt: skip
    waiting = running(job("a"), job("b", depends_on={"a": "succeeded"}))
    waiting.tell((1.0, asked_to_roll(of="b"), "", ""))
    leaving = running(serving(1), job("b"))
    leaving.happen(1.0, read_anew(job("b")))
    leaving.tell((2.0, asked_to_roll(of="job"), "", ""))


def test_an_end_that_was_to_be_repeated_and_cannot_be_is_a_failure_of_the_release_too() -> None:
    plan = serving(2, policy="always", max_restarts=0)
    story = running(plan)
    story.happen(1.0, asked_to_roll())
    story.happen(2.0, killed(0, 15))
    story.happen(2.0, gone(0))
    story.happen(3.0, started(0))
    story.happen(3.0, killed(1, 15))
    story.happen(3.0, gone(1))
    story.tell((4.0, exited(0), "", "worker.exited; group.rolling halted=true; group.degraded"), (4.0, gone(0)))
    assert story.group.is_missing(0)
    story.tell((5.0, started(1), "", "worker.started; group.ready"))


@pytest.mark.parametrize(("first", "rolls"), [(8004, True), (8001, False), (0, True)])
def test_a_new_worker_never_gets_a_port_that_another_still_has(first: int, rolls: bool) -> None:
    """Its probe would be answered by the old one."""
    plan = replace(serving(3), first_port=8000)
    story = running(plan)
    story.happen(1.0, read_anew(replace(plan, first_port=first)))
    assert (story.group.roll is not None) == rolls
