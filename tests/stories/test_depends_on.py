"""Groups that depend on others: started in order, lost when what they wait for is, and stopped in reverse."""

from __future__ import annotations

import pytest

from supervisor.core.groups import Of
from supervisor.core.messages import StopRequested
from supervisor.core.state import Phase
from supervisor.plan import Condition, RestartRules
from tests.stories.story import Story, asked_to_stop, end, exited, formed, gone, job, killed, running, started, up


def pair(condition: Condition) -> Story:
    """``web`` waits for ``cache``, which has two workers."""
    no_restarts = RestartRules(max_restarts=0)
    return Story(job("cache", 2, restart=no_restarts), job("web", depends_on={"cache": condition})).tell(
        (0.0, up(), "cache: form world 0", "group.starting"),
        (0.0, formed(of="cache"), "cache: start 0#0 1#0"),
        (0.1, started(0, of="cache"), "", "worker.started"),
    )


@pytest.mark.parametrize("condition", ["started", "ready"])
def test_it_starts_when_every_worker_of_the_other_has(condition: Condition) -> None:
    pair(condition).tell(
        (0.2, started(1, of="cache"), "web: form world 0", "worker.started; group.started; group.ready; group.starting")
    )


@pytest.mark.parametrize(("condition", "phase"), [("started", Phase.STARTING), ("ready", Phase.WAITING)])
def test_started_is_met_for_good_and_ready_only_while_it_is(condition: Condition, phase: Phase) -> None:
    """``cache`` is away just when ``web`` could start, since ``once`` has succeeded."""
    story = running(job("cache"), job("once"), job("web", depends_on={"cache": condition, "once": "succeeded"}))
    story.happen(1.0, exited(0, code=1, of="cache"))
    story.ends(2.0, 0, of="once")
    assert story.phase_of("web") is phase
    story.happen(3.0, gone(0, of="cache"))
    story.runs(3.0)
    assert story["web"].is_ready


def test_ready_stays_met_when_the_other_has_been_ready_and_has_succeeded() -> None:
    story = running(job("cache"), job("once"), job("web", depends_on={"cache": "ready", "once": "succeeded"}))
    story.ends(1.0, 0, of="cache").ends(2.0, 0, of="once")
    assert story.phase_of("web") is Phase.STARTING


def test_succeeded_waits_for_success() -> None:
    story = pair("succeeded")
    story.happen(0.2, started(1, of="cache"))
    assert story.phase_of("web") is Phase.WAITING
    story.ends(1.0, 0, of="cache").tell(
        (2.0, exited(1, of="cache"), "", "worker.exited"),
        (2.0, gone(1, of="cache"), "web: form world 0", "group.succeeded; group.starting"),
    )


@pytest.mark.parametrize("condition", ["ready", "succeeded"])
def test_it_fails_without_ever_starting_when_the_other_has_failed(condition: Condition) -> None:
    story = pair(condition).tell(
        (0.2, exited(0, code=3, of="cache"), "cache: timer ladder 30.2; cache: abandon starts",
         "worker.exited; worker.failed; group.gave_up"),
    )  # fmt: skip
    story.happen(0.3, started(1, of="cache"))
    story.ends(0.4, 1, of="cache")
    story.tell(
        (0.5, gone(0, of="cache"), "cache: no timer ladder", "group.failed exit_code=3; group.failed exit_code=1")
    )
    assert story["web"].why == "depends on cache, which has failed"
    assert story.over()
    assert story.state.exit_code == 3  # that of the cause, not of what it led to


def test_it_fails_when_the_other_was_stopped() -> None:
    story = pair("succeeded").runs()
    story.happen(1.0, asked_to_stop(of="cache"))
    story.ends(1.1, 0, 1, of="cache")
    assert story["web"].why == "depends on cache, which has stopped"


def test_a_loss_goes_down_the_whole_chain_at_once() -> None:
    story = Story(
        job("a", restart=RestartRules(max_restarts=0)),
        job("c", depends_on={"b": "ready"}),
        job("b", depends_on={"a": "succeeded"}),
    ).runs()
    story.happen(1.0, exited(0, code=9, of="a"))
    story.tell((1.0, gone(0, of="a"), "a: no timer ladder", "group.failed; group.failed; group.failed"))
    assert story["c"].why == "depends on b, which has failed"
    assert story.state.exit_code == 9


def test_a_restart_of_the_other_does_not_touch_who_runs_already() -> None:
    story = running(job("cache"), job("web", depends_on={"cache": "ready"}))
    story.ends(1.0, 0, code=1, of="cache")
    assert story["web"].is_ready


def test_several_must_all_be_met() -> None:
    story = Story(job("a"), job("b"), job("c", depends_on={"a": "ready", "b": "succeeded"})).runs()
    assert story.phase_of("c") is Phase.WAITING
    story.ends(1.0, 0, of="b")
    assert story.phase_of("c") is Phase.STARTING


def test_dependents_are_gone_before_what_they_depend_on_is_told_to_stop() -> None:
    running(
        job("db"), job("cache", depends_on={"db": "ready"}), job("web", depends_on={"db": "ready", "cache": "started"})
    ).tell(
        (1.0, end(), "web: SIGTERM tree 0#0; web: timer ladder 31", "daemon.stopping; group.stopping"),
        (1.1, killed(0, 15, of="web"), "", "worker.exited"),
        (1.2, gone(0, of="web"), "web: no timer ladder; cache: SIGTERM tree 0#0; cache: timer ladder 31.2",
         "group.stopped; group.stopping"),
        (1.3, killed(0, 15, of="cache"), "", "worker.exited"),
        (1.4, gone(0, of="cache"), "cache: no timer ladder; db: SIGTERM tree 0#0; db: timer ladder 31.4",
         "group.stopped; group.stopping"),
        (1.5, killed(0, 15, of="db"), "", "worker.exited"),
        (1.5, gone(0, of="db"), "db: no timer ladder", "group.stopped"),
    )  # fmt: skip


def test_who_still_waits_when_the_stop_comes_never_starts() -> None:
    story = pair("succeeded").tell(
        (0.2, end(), "cache: SIGTERM tree 0#0; cache: timer ladder 30.2; cache: abandon starts",
         "daemon.stopping; group.stopped; group.stopping"),
    )  # fmt: skip
    assert story.phase_of("web") is Phase.FINISHED


def test_an_input_for_a_group_that_does_not_exist_changes_nothing() -> None:
    story = running(job())
    before = story.state
    story.tell((1.0, Of("nobody", StopRequested("operator"))))
    assert story.state is before
