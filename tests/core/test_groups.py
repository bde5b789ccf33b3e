"""All groups together: how long a stop may still take."""

from __future__ import annotations

import pytest

from supervisor.core.groups import missing_for, stop_deadline
from supervisor.plan import Rung, StopRules
from tests.stories.story import Story, end, gone, job, killed, running

SLOW = StopRules((Rung(15, 60.0), Rung(9, 5.0)))


def deadline(story: Story) -> float | None:
    return stop_deadline(story.state, story.now)


def test_as_long_as_nobody_stops_there_is_no_deadline() -> None:
    assert deadline(running(job())) is None


def test_groups_that_wait_for_their_dependents_come_after_them() -> None:
    """``web`` has 40 s from the beginning of its stop, and ``db`` 65 s from when ``web`` is gone."""
    story = running(job("db", stop=SLOW), job("web", depends_on={"db": "ready"}))
    story.happen(10.0, end())
    assert deadline(story) == 10.0 + 40.0 + 65.0
    story.now = 25.0
    assert deadline(story) == 10.0 + 40.0 + 65.0
    story.happen(30.0, killed(0, 15, of="web"))
    story.happen(30.0, gone(0, of="web"))
    assert deadline(story) == 30.0 + 65.0
    story.ends(31.0, 0, of="db")
    assert deadline(story) == 31.0


def test_groups_that_stop_together_share_the_time_of_the_slowest() -> None:
    story = running(job("a", stop=SLOW), job("b"))
    story.happen(10.0, end())
    assert deadline(story) == 10.0 + 65.0


def test_a_drain_delay_comes_on_top() -> None:
    story = running(job(), drain_delay=20.0)
    story.happen(10.0, end())
    assert deadline(story) == pytest.approx(10.0 + 20.0 + 40.0)


def test_what_a_group_waits_for_is_named_with_the_phase_it_is_in() -> None:
    story = Story(job("db"), job("web", depends_on={"db": "ready"}))
    assert missing_for(story.state, "web") == "depends on db, which is waiting and not ready"
    assert missing_for(story.state, "db") == ""
    assert missing_for(running(job("db"), job("web", depends_on={"db": "ready"})).state, "web") == ""
