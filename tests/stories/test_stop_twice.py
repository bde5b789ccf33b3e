"""Asked a second time, and in a hurry: the last rung of the ladder, at once."""

from __future__ import annotations

from supervisor.plan import Rung, StopRules
from tests.stories.story import end, gone, job, killed, running

THREE_RUNGS = StopRules((Rung(2, 5.0), Rung(15, 5.0), Rung(9, 5.0)))


def test_the_second_signal_kills_what_the_first_has_not_ended() -> None:
    running(job(workers=2, stop=THREE_RUNGS)).tell(
        (1.0, end("SIGINT"), "SIGINT tree 0#0 1#0; timer ladder 6", "daemon.stopping; group.stopping workers=2"),
        (1.5, killed(0, 2), "", "worker.exited signal=SIGINT by=daemon"),
        (1.5, gone(0)),
        (2.0, end("SIGINT", hurry=True), "SIGKILL tree 1#0; timer ladder 7", "worker.killed rank=1 signal=SIGKILL"),
        (2.0, end("SIGINT", hurry=True)),
        (2.1, killed(1, 9), "", "worker.exited by=daemon"),
        (2.1, gone(1), "no timer ladder", "group.stopped"),
    )


def test_in_a_hurry_from_the_beginning_both_signals_go_out_together() -> None:
    running(job()).tell(
        (1.0, end("SIGINT", hurry=True),
         "SIGTERM tree 0#0; timer ladder 31; SIGKILL tree 0#0; timer ladder 11",
         "daemon.stopping; group.stopping; worker.killed"),
    )  # fmt: skip


def test_without_hurry_a_second_request_changes_nothing() -> None:
    story = running(job()).tell(
        (1.0, end("SIGTERM"), "SIGTERM tree 0#0; timer ladder 31", "daemon.stopping; group.stopping")
    )
    before = story.state
    story.tell((2.0, end("SIGTERM")))
    assert story.state is before


def test_in_a_hurry_dependents_are_not_waited_for() -> None:
    """Only ``web`` was being stopped, since it depends on ``cache``: now both are killed."""
    story = running(job("cache"), job("web", depends_on={"cache": "ready"}))
    story.tell((1.0, end(), "web: SIGTERM tree 0#0; web: timer ladder 31", "daemon.stopping; group.stopping"))
    story.happen(2.0, end(hurry=True))
    assert story.timers == {("cache", "ladder"): 12.0, ("web", "ladder"): 12.0}
    assert [event.name for event in story.said] == ["group.stopping", "worker.killed", "worker.killed"]
