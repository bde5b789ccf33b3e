"""Required groups decide when the daemon is done, whether it is ready, and what it exits with."""

from __future__ import annotations

from supervisor.plan import RestartRules
from tests.stories.story import exited, gone, job, running

NO_RESTARTS = RestartRules(max_restarts=0)


def test_when_every_required_group_has_finished_the_others_are_stopped() -> None:
    story = running(job("train", 1), job("watch", 1, required=False)).tell(
        (1.0, exited(0, of="train"), "", "worker.exited"),
        (1.0, gone(0, of="train"), "watch: SIGTERM tree 0#0; watch: timer ladder 31",
         "group.succeeded; daemon.stopping; group.stopping"),
    )  # fmt: skip
    assert story.state.why == "every required group has finished"
    assert not story.over()
    story.ends(1.1, 0, of="watch")
    assert story.over()
    assert story.state.exit_code == 0


def test_a_group_that_is_not_required_may_fail() -> None:
    story = running(job("train"), job("watch", required=False, restart=NO_RESTARTS))
    story.ends(1.0, 0, code=9, of="watch")
    assert story.ready.ok
    assert not story.over()
    story.ends(2.0, 0, of="train")
    assert story.over()
    assert story.state.exit_code == 0


def test_the_first_required_group_that_failed_gives_the_exit_code() -> None:
    story = running(job("a", restart=NO_RESTARTS), job("b", restart=NO_RESTARTS), job("c"))
    story.ends(1.0, 0, code=5, of="b").ends(2.0, 0, code=4, of="a").ends(3.0, 0, of="c")
    assert story.over()
    assert story.state.exit_code == 5


def test_with_no_required_group_at_all_it_is_over_when_all_have_finished() -> None:
    story = running(job("a", required=False, restart=NO_RESTARTS), job("b", required=False))
    story.ends(1.0, 0, code=5, of="a")
    assert not story.over()
    story.ends(1.0, 0, of="b")
    assert story.over()
    assert story.state.exit_code == 0


def test_one_required_group_that_is_away_makes_the_daemon_unready() -> None:
    story = running(job("a"), job("b"), job("c", required=False))
    assert story.ready.ok
    story.happen(1.0, exited(0, code=1, of="b"))
    assert story.ready.reasons == ("group b is stopping, 0/1 workers ready: rank 0 exited with code 1 after 1.0 s",)
