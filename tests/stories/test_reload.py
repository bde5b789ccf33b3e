"""The configuration is read anew: groups come, go, restart or run on, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.groups import why_not_reload
from supervisor.core.state import Phase
from supervisor.plan import Backoff, RestartRules, Rung, StopRules
from tests.stories.story import (
    Story,
    asked_to_start,
    asked_to_stop,
    due,
    end,
    exited,
    formed,
    gone,
    job,
    killed,
    read_anew,
    refused,
    running,
    started,
    strays,
    up,
)

A, B, C = job("a"), job("b"), job("c")
OTHER_A = replace(A, command=("other",))
QUICK = StopRules((Rung(2, 1.0), Rung(9, 5.0)))


def test_the_same_again_touches_nothing() -> None:
    story = running(A, B)
    before = dict(story.state.groups)
    story.tell((1.0, read_anew(A, B), "", "daemon.reloaded"))
    assert story.state.groups == before


def test_a_group_that_is_new_starts_and_one_that_is_no_more_stops_and_is_forgotten() -> None:
    story = running(A, B).tell(
        (1.0, read_anew(C, A), "c: form world 0; b: SIGTERM tree 0#0; b: timer ladder 31",
         "daemon.reloaded; group.starting; group.stopping"),
    )  # fmt: skip
    assert list(story.state.groups) == ["c", "a", "b"]
    assert story["a"].is_ready
    story.tell(
        (2.0, killed(0, 15, of="b"), "", "worker.exited"),
        (2.0, gone(0, of="b"), "b: no timer ladder", "group.stopped"),
    )
    assert list(story.state.groups) == ["c", "a"]


def test_a_group_that_leaves_counts_no_more_for_readiness_nor_for_the_exit_code() -> None:
    story = running(A, B).ends(1.0, 0, of="b")
    story.happen(2.0, read_anew(A))
    assert story.ready.ok
    story = running(A, job("b", restart=RestartRules(max_restarts=0)), when_done="stay").ends(1.0, 0, code=3, of="b")
    assert story.state.exit_code == 3
    story.happen(2.0, read_anew(A, when_done="stay"))
    assert story.state.exit_code == 0


def test_a_group_leaves_after_those_that_depend_on_it() -> None:
    story = running(A, job("b", depends_on={"a": "ready"}), C)
    story.tell((1.0, read_anew(C), "b: SIGTERM tree 0#0; b: timer ladder 31", "daemon.reloaded; group.stopping"))
    story.happen(2.0, killed(0, 15, of="b"))
    story.tell((2.0, gone(0, of="b"), "b: no timer ladder; a: SIGTERM tree 0#0; a: timer ladder 32",
                "group.stopped; group.stopping"))  # fmt: skip


def test_a_group_that_never_started_leaves_at_once_and_does_not_start_first() -> None:
    story = running(A, job("b", depends_on={"a": "succeeded"}), job("c", depends_on={"b": "started"}))
    story.happen(1.0, read_anew(A))
    assert list(story.state.groups) == ["a"]


def test_what_needs_a_restart_restarts_by_the_new_plan_with_its_whole_budget() -> None:
    story = running(replace(A, restart=RestartRules(max_restarts=1))).ends(1.0, 0, code=1)
    story.happen(1.0, formed())
    story.happen(1.0, started(0))
    assert story.view.restarts == 1
    story.tell(
        (2.0, read_anew(replace(A, workers=3)), "SIGTERM tree 0#1; timer ladder 32", "daemon.reloaded; group.stopping"),
        (3.0, killed(0, 15), "", "worker.exited"),
        (3.0, gone(0), "no timer ladder; form world 2", "group.starting workers=3"),
        (3.0, formed(), "start 0#2 1#2 2#2"),
    )
    assert story.view.restarts == 0


def test_what_needs_none_is_taken_over_as_it_runs() -> None:
    story = running(A)
    story.tell((1.0, read_anew(replace(A, stop=QUICK)), "", "daemon.reloaded"))
    assert story["a"].is_ready
    story.tell((2.0, end(), "SIGINT tree 0#0; timer ladder 3", "daemon.stopping; group.stopping"))


def test_what_a_worker_left_behind_climbs_the_new_ladder_from_its_foot() -> None:
    story = running(job("a", workers=2))
    story.happen(1.0, exited(0))
    story.happen(1.0, strays(0, "1 sh"))
    story.happen(2.0, read_anew(job("a", workers=2, stop=QUICK)))
    story.tell(
        (31.0, due("strays:0"), "SIGINT tree 0#0; timer strays:0 32", "worker.killed"),
        (32.0, due("strays:0"), "SIGKILL tree 0#0; timer strays:0 37", "worker.killed"),
    )
    same = running(job("a", workers=2))
    same.happen(1.0, exited(0))
    same.happen(1.0, strays(0, "1 sh"))
    climbs = same["a"].strays
    same.happen(2.0, read_anew(job("a", workers=2, required=False)))
    assert same["a"].strays == climbs


def test_a_stop_under_way_goes_by_the_ladder_that_it_began_with() -> None:
    story = running(A)
    story.happen(1.0, asked_to_stop())
    story.tell(
        (2.0, read_anew(replace(A, stop=QUICK), when_done="stay"), "", "daemon.reloaded"),
        (31.0, due("ladder"), "SIGKILL tree 0#0; timer ladder 41", "worker.killed"),
    )
    story.happen(32.0, killed(0, 9))
    story.happen(32.0, gone(0))
    assert story["a"].plan.stop == QUICK


def test_a_second_change_while_the_first_is_waited_for_is_the_one_that_counts() -> None:
    story = running(A)
    story.happen(1.0, read_anew(OTHER_A))
    story.happen(2.0, read_anew(replace(OTHER_A, command=("third",))))
    story.happen(2.0, read_anew(replace(OTHER_A, command=("third",), required=False)))
    story.happen(3.0, killed(0, 15))
    story.tell((3.0, gone(0), "no timer ladder; form world 1", "group.starting"))
    assert story["a"].plan == replace(OTHER_A, command=("third",), required=False)


def test_a_pause_before_a_restart_is_cut_short() -> None:
    story = running(replace(A, restart=RestartRules(backoff=Backoff(60.0, jitter=0.0)))).ends(1.0, 0, code=1)
    assert story.phase_of() is Phase.BACKING_OFF
    story.tell((2.0, read_anew(OTHER_A), "no timer backoff; form world 1", "daemon.reloaded; group.starting"))


def test_a_group_that_waits_for_its_world_forms_another() -> None:
    story = Story(A)
    story.happen(0.0, up())
    story.tell((1.0, read_anew(OTHER_A), "form world 1", "daemon.reloaded; group.starting"))
    story.happen(1.0, refused("no port"))
    assert story.phase_of() is Phase.BACKING_OFF


def test_a_group_that_waits_for_another_goes_on_waiting() -> None:
    story = running(A, job("b", depends_on={"a": "succeeded"}))
    story.tell((1.0, read_anew(A, job("b", workers=2, depends_on={"a": "succeeded"})), "", "daemon.reloaded"))
    story.happen(2.0, exited(0, of="a"))
    story.tell((2.0, gone(0, of="a"), "b: form world 0", "group.succeeded; group.starting workers=2"))


@pytest.mark.parametrize("code", [0, 3])
def test_a_group_that_is_over_begins_again_if_what_it_was_started_with_has_changed(code: int) -> None:
    failing = replace(A, restart=RestartRules(max_restarts=0))
    story = running(failing, when_done="stay").ends(1.0, 0, code=code)
    story.tell((2.0, read_anew(replace(failing, required=False), when_done="stay"), "", "daemon.reloaded"))
    assert story.phase_of() is Phase.FINISHED
    story.tell((3.0, read_anew(OTHER_A, when_done="stay"), "form world 1", "daemon.reloaded; group.starting"))
    assert story.state.exit_code == 0


def test_what_somebody_has_stopped_stays_stopped() -> None:
    story = running(A, B, when_done="stay")
    story.happen(1.0, asked_to_stop(of="a"))
    story.happen(2.0, read_anew(OTHER_A, B, when_done="stay"))
    story.ends(3.0, 0, of="a", code=0)
    assert story.phase_of("a") is Phase.FINISHED
    story.happen(4.0, read_anew(replace(OTHER_A, workers=2), B, when_done="stay"))
    assert story.phase_of("a") is Phase.FINISHED
    story.tell((5.0, asked_to_start(of="a"), "a: form world 1", "group.starting workers=2"))


def test_a_group_that_was_to_leave_and_is_back_runs_again() -> None:
    story = running(A, B)
    story.happen(1.0, read_anew(A))
    story.tell((2.0, read_anew(A, B), "", "daemon.reloaded"))
    story.happen(3.0, killed(0, 15, of="b"))
    story.tell((3.0, gone(0, of="b"), "b: no timer ladder; b: form world 1", "group.starting"))
    assert story["b"].plan.required


def test_what_cannot_be_killed_keeps_its_group_until_it_is_gone() -> None:
    story = running(A, B)
    story.happen(1.0, read_anew(A))
    story.happen(31.0, due("ladder", of="b"))
    story.happen(41.0, due("ladder", of="b"))
    assert story["b"].unkillable == {0}
    story.happen(42.0, read_anew(A, B))
    assert story.phase_of("b") is Phase.FINISHED
    story.happen(43.0, read_anew(A))
    story.happen(50.0, killed(0, 9, of="b"))
    assert "b" in story.state.groups
    story.happen(51.0, gone(0, of="b"))
    assert list(story.state.groups) == ["a"]


def test_all_of_a_plan_is_gone_by_or_nothing_of_it() -> None:
    story = running(A)
    before = story.state
    story.tell((1.0, read_anew(OTHER_A, listen=("127.0.0.1:1",)), "", ""))
    assert story.state == before
    new = replace(before.plan, listen=())
    assert why_not_reload(before, new) == "only a restart of rankd can change health.listen"


def test_a_daemon_that_stops_is_not_reloaded() -> None:
    story = running(A)
    story.happen(1.0, end())
    before = story.state
    story.tell((2.0, read_anew(A, B), "", ""))
    assert story.state == before
    assert why_not_reload(before, before.plan) == "rankd is stopping"
