"""All workers end well: the group has succeeded, and when all groups have, the daemon exits with 0."""

from __future__ import annotations

from supervisor.plan import RestartRules
from tests.stories.story import Story, exited, formed, gone, job, running, started, up


def test_success_is_said_when_the_last_worker_is_gone() -> None:
    story = running(job(workers=3)).tell(
        (1.0, exited(2), "", "worker.exited exit_code=0 by=itself"),
        (1.0, exited(0), "", "worker.exited"),
        (1.1, gone(0)),
        (1.2, exited(1), "", "worker.exited"),
        (1.2, gone(1)),
        (1.3, gone(2), "", "group.succeeded attempt=0 restarts=0"),
    )
    assert story.over()
    assert story.state.exit_code == 0
    assert [worker.state for worker in story.view.workers] == ["succeeded"] * 3
    assert story.ready.reasons == ("every required group has succeeded: nothing is left to serve",)


def test_who_has_ended_well_does_not_make_the_rest_unready() -> None:
    story = running(job(workers=2)).ends(1.0, 0)
    assert story.ready.ok
    story.happen(2.0, exited(1))
    assert not story.ready.ok  # none is left that serves


def test_other_exit_codes_may_be_called_success() -> None:
    story = running(job(workers=2, restart=RestartRules(success_exit_codes=frozenset({0, 42}))))
    story.ends(1.0, 0, code=42).ends(1.0, 1, code=0)
    assert story.view.succeeded


def test_a_worker_that_ends_before_the_last_has_started_counts_as_started_and_well() -> None:
    Story(job(workers=2)).tell(
        (0.0, up(), "form world 0", "group.starting"),
        (0.0, formed(), "start 0#0 1#0"),
        (0.1, started(0), "", "worker.started"),
        (0.2, exited(0), "", "worker.exited"),
        (0.2, gone(0)),
        (0.3, started(1), "", "worker.started; group.started; group.ready"),
        (0.4, exited(1), "", "worker.exited"),
        (0.4, gone(1), "", "group.succeeded"),
    )


def test_a_failure_after_others_have_succeeded_restarts_them_all() -> None:
    running(job(workers=2)).ends(1.0, 0).tell(
        (2.0, exited(1, code=1), "timer ladder 32", "worker.exited; worker.failed; group.restarting"),
        (2.0, gone(1), "no timer ladder; form world 1", "group.starting workers=2"),
    )
