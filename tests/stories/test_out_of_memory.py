"""The kernel kills a worker for memory: the record says so, also when we were about to stop that worker."""

from __future__ import annotations

import pytest

from supervisor.core.messages import ExitStatus, Worker, WorkerExited
from tests.stories.story import Happening, Story, exited, job, running


def killed_by(rank: int, *, oom: bool, evidence: str = "") -> Happening:
    attempt_0 = Worker(rank, 0)
    return Happening("", lambda _story, _name: WorkerExited(attempt_0, ExitStatus(None, 9), oom, evidence))


def told(story: Story, name: str) -> str:
    return next(event.message for event in story.said if event.name == name)


def test_what_was_killed_for_memory_failed_by_oom() -> None:
    story = running(job(workers=2))
    story.happen(5.0, killed_by(1, oom=True, evidence="in its control group"))
    assert story.said[0].fields["by"] == "oom"
    assert "rank 1 was killed by SIGKILL (out of memory, in its control group) after 5.0 s" in told(
        story, "group.restarting"
    )


def test_it_is_the_kernels_doing_while_a_stop_is_under_way_too() -> None:
    story = running(job(workers=2))
    story.happen(5.0, exited(0, code=3))
    story.happen(5.1, killed_by(1, oom=True))
    assert story.said[0].fields["by"] == "oom"


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ("", "SIGKILL (unknown, from outside)"),
        ("from outside; a counter moved", "SIGKILL (from outside; a counter moved)"),
    ],
)
def test_what_is_not_proved_is_unknown(evidence: str, words: str) -> None:
    story = running(job(workers=2))
    story.happen(5.0, killed_by(1, oom=False, evidence=evidence))
    assert story.said[0].fields["by"] == "outside"
    assert words in told(story, "worker.exited")


def test_a_core_is_said_with_where_it_goes() -> None:
    story = running(job(workers=2))
    dumped = WorkerExited(Worker(1, 0), ExitStatus(None, 11, core_dumped=True), evidence="/var/cores/%p")
    story.happen(5.0, Happening("", lambda _story, _name: dumped))
    assert "was killed by SIGSEGV (core dumped, /var/cores/%p)" in told(story, "worker.exited")
