"""A person asks: a group is stopped and stays so, runs again, runs anew; clients are kept away for a while."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.groups import DrainRequested, UndrainRequested
from supervisor.core.state import Phase
from supervisor.plan import Backoff, RestartRules
from tests.stories.story import (
    Story,
    asked_to_run,
    asked_to_stop,
    due,
    end,
    exited,
    formed,
    gone,
    job,
    killed,
    read_anew,
    running,
    started,
    up,
)

A, B = job("a"), job("b")
PAUSED = RestartRules(backoff=Backoff(initial=5.0, jitter=0.0))


def stopped(story: Story, at: float = 1.0) -> Story:
    """root has stopped the group a."""
    story.happen(at, asked_to_stop("stopped by root", by="root", of="a"))
    if story["a"].live:
        story.happen(at, killed(0, 15, of="a"))
        story.happen(at, gone(0, of="a"))
    return story


def test_what_a_person_has_stopped_is_not_done_so_the_daemon_stays() -> None:
    story = stopped(running(A))
    assert story.phase_of("a") is Phase.FINISHED
    assert story.view.stopped_by == "root"
    assert not story.over()
    story.tell((2.0, end(), "", "daemon.stopping"))
    assert story.over()
    assert story.state.exit_code == 0


def test_the_others_run_on_and_their_end_is_the_daemons_only_when_nobody_waits_for_the_stopped_one() -> None:
    story = stopped(running(A, B))
    assert story.phase_of("b") is Phase.RUNNING
    story.ends(2.0, 0, of="b")
    assert not story.over()
    story.happen(3.0, asked_to_run(of="a"))
    story.happen(3.0, formed(of="a"))
    story.happen(3.0, started(0, of="a"))
    assert story.view.stopped_by == ""
    story.ends(4.0, 0, of="a")
    assert story.over()


def test_a_required_group_that_is_stopped_on_purpose_is_not_ready_and_says_who_it_was() -> None:
    assert stopped(running(A, B)).ready.reasons == ("group a is finished, 0/1 workers ready: stopped by root",)


def test_it_stays_stopped_over_a_reload_that_changes_it() -> None:
    story = stopped(running(A, B))
    story.happen(2.0, read_anew(replace(A, command=("other",)), B))
    assert story.phase_of("a") is Phase.FINISHED
    story.tell((3.0, asked_to_run(of="a"), "a: form world 1", "group.starting"))
    assert story["a"].plan.command == ("other",)


def test_a_stop_that_is_still_under_way_is_not_undone_by_a_reload() -> None:
    story = running(A, B)
    story.happen(1.0, asked_to_stop(by="root", of="a"))
    story.happen(1.0, read_anew(replace(A, command=("other",)), B))
    story.happen(2.0, killed(0, 15, of="a"))
    story.tell((2.0, gone(0, of="a"), "a: no timer ladder", "group.stopped"))


def test_who_waits_for_a_group_that_was_stopped_goes_on_waiting_and_says_so() -> None:
    story = Story(A, job("c", depends_on={"a": "ready"}))
    story.happen(0.0, asked_to_stop(by="root", of="a"))
    story.happen(0.0, up())
    assert story["c"].phase is Phase.WAITING
    assert story["c"].why == "waits for a to be ready; root has stopped it"
    story.tell((1.0, asked_to_run(of="a"), "a: form world 0", "group.starting"))


def test_it_starts_again_only_when_what_it_depends_on_is_there() -> None:
    story = running(A, job("c", depends_on={"a": "ready"}))
    stopped(story)
    story.happen(2.0, asked_to_stop(by="root", of="c"))
    story.happen(2.0, killed(0, 15, of="c"))
    story.happen(2.0, gone(0, of="c"))
    story.happen(3.0, asked_to_run(of="c"))
    assert story["c"].why == "waits for a to be ready; root has stopped it"


def test_a_restart_is_not_charged_and_gives_back_the_whole_budget() -> None:
    story = running(replace(A, restart=RestartRules(max_restarts=1))).ends(1.0, 0, code=1)
    story.happen(1.0, formed())
    story.happen(1.0, started(0))
    assert story.view.restarts_left == 0
    story.tell(
        (2.0, asked_to_run(anew=True), "SIGTERM tree 0#1; timer ladder 32", "group.stopping"),
        (3.0, killed(0, 15), "", "worker.exited by=daemon"),
        (3.0, gone(0), "no timer ladder; form world 2", "group.starting"),
    )
    assert story.view.restarts_left == 1


def test_to_start_what_runs_changes_nothing() -> None:
    running(A).tell((1.0, asked_to_run(), "", ""))


def test_to_stop_twice_is_to_stop_once() -> None:
    story = stopped(running(A))
    story.tell((2.0, asked_to_stop(by="eve"), "", ""))
    assert story.view.stopped_by == "root"


def test_a_start_cuts_the_pause_short() -> None:
    story = running(replace(A, restart=PAUSED)).ends(1.0, 0, code=1)
    story.tell((2.0, asked_to_run(), "no timer backoff; form world 1", "group.starting"))
    assert story.view.restarts == 0


def test_a_start_while_it_stops_has_it_begin_again_when_all_are_gone() -> None:
    story = running(A)
    story.happen(1.0, asked_to_stop(by="root"))
    story.tell(
        (2.0, asked_to_run(), "", ""),
        (3.0, killed(0, 15), "", "worker.exited"),
        (3.0, gone(0), "no timer ladder; form world 1", "group.starting"),
    )
    assert story.view.stopped_by == ""


def test_what_has_failed_can_be_started_and_its_failure_counts_no_more() -> None:
    never = RestartRules(max_restarts=0)
    story = running(replace(A, restart=never), replace(B, restart=never)).ends(1.0, 0, code=3, of="a")
    assert story.state.exit_code == 3
    story.happen(2.0, asked_to_run(of="a"))
    assert story.state.exit_code == 0
    story.ends(3.0, 0, code=4, of="b")
    assert story.state.exit_code == 4


def test_what_cannot_be_killed_has_failed_and_is_not_started_over() -> None:
    story = running(A, B)
    story.happen(1.0, asked_to_stop(by="root", of="a"))
    for at in (31.0, 41.0):
        story.happen(at, due("ladder", of="a"))
    assert story["a"].is_done
    story.tell((42.0, asked_to_run(of="a"), "", ""))


def test_nothing_is_started_while_the_daemon_stops_or_once_the_configuration_has_it_no_more() -> None:
    story = stopped(running(A, B))
    story.happen(2.0, read_anew(B))
    story.happen(2.0, end())
    story.tell((3.0, asked_to_run(of="b"), "", ""))
    story = running(A, B)
    story.happen(1.0, read_anew(B))
    story.tell((2.0, asked_to_run(of="a"), "", ""))


def test_while_a_person_has_it_drained_it_is_not_ready_and_everything_runs_on() -> None:
    story = running(A)
    story.tell((1.0, DrainRequested("root"), "", "daemon.draining"), (1.5, DrainRequested("eve"), "", ""))
    assert story.ready.reasons == ("draining: asked by root with `rankd drain`",)
    assert story.phase_of("a") is Phase.RUNNING
    story.tell((2.0, UndrainRequested("root"), "", "daemon.undrained"), (2.5, UndrainRequested("root"), "", ""))
    assert story.ready.ok


def test_a_drained_daemon_stops_as_any_other_and_is_drained_no_further() -> None:
    story = running(A)
    story.happen(1.0, DrainRequested("root"))
    story.tell((2.0, end(), "SIGTERM tree 0#0; timer ladder 32", "daemon.stopping; group.stopping"))
    story.tell((2.5, DrainRequested("eve"), "", ""))
    story.happen(3.0, exited(0))
    story.happen(3.0, gone(0))
    assert story.over()
