"""``when_done = "stay"``: the daemon goes on answering when every group has finished, until it is told to stop."""

from __future__ import annotations

from supervisor.plan import RestartRules
from tests.stories.story import asked_to_start, end, job, running


def test_it_is_over_only_when_somebody_says_so() -> None:
    story = running(job("train"), job("watch", required=False), when_done="stay").ends(1.0, 0, of="train")
    assert not story.over()
    assert story["watch"].is_ready
    story.ends(2.0, 0, of="watch")
    assert not story.over()
    story.tell((3.0, end(), "", "daemon.stopping"))
    assert story.over()
    assert story.state.exit_code == 0


def test_a_stop_that_is_asked_for_is_a_success_whatever_had_failed() -> None:
    """``systemctl stop`` would leave the unit failed otherwise; the failure itself has been told."""
    story = running(job(restart=RestartRules(max_restarts=0)), when_done="stay").ends(1.0, 0, code=3)
    assert story.state.exit_code == 3
    story.happen(2.0, end())
    assert story.over()
    assert story.state.exit_code == 0


def test_a_finished_group_can_be_started_anew() -> None:
    story = running(job(), when_done="stay").ends(1.0, 0)
    assert story.view.succeeded
    story.tell((2.0, asked_to_start(), "form world 1", "group.starting attempt=1"))
    assert not story.state.groups["job"].verdict


def test_nothing_is_started_anew_while_the_daemon_stops() -> None:
    story = running(job("a"), job("b", depends_on={"a": "ready"}), when_done="stay").ends(1.0, 0, of="a")
    story.happen(2.0, end())
    story.tell((3.0, asked_to_start(of="a")))
    story.ends(4.0, 0, of="b")
    assert story.over()
