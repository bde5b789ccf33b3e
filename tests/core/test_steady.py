"""A group is taken for ready, or not, only once it has been so for long enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.state import Group, Phase
from supervisor.core.steady import Standing, observe, settles_at
from supervisor.plan import GroupPlan
from tests.stories.story import job


def plan(*, ready_after: float = 0.0, unready_after: float = 0.0) -> GroupPlan:
    return replace(job(), ready_after=ready_after, unready_after=unready_after)


def ready(plan: GroupPlan, at: float) -> Group:
    return Group(plan, 1, Phase.RUNNING, ready_at=at)


def away(plan: GroupPlan, phase: Phase = Phase.RUNNING) -> Group:
    return Group(plan, 1, phase)


def test_without_waiting_times_a_group_is_taken_for_what_it_is() -> None:
    group = plan()
    assert observe(Standing(), ready(group, 1.0), 1.0) == Standing(True)
    assert observe(Standing(True), away(group), 2.0) == Standing(False)
    assert settles_at(Standing(True), ready(group, 1.0)) is None


def test_ready_is_said_when_it_has_lasted() -> None:
    group = plan(ready_after=5.0)
    doubted = observe(Standing(), ready(group, 1.0), 1.0)
    assert doubted == Standing(False, 1.0)
    assert settles_at(doubted, ready(group, 1.0)) == 6.0
    assert observe(doubted, ready(group, 1.0), 5.9) == doubted
    assert observe(doubted, ready(group, 1.0), 6.0) == Standing(True)


def test_ready_for_a_moment_is_never_said_and_the_next_time_counts_anew() -> None:
    group = plan(ready_after=5.0)
    doubted = observe(Standing(), ready(group, 1.0), 1.0)
    assert observe(doubted, away(group), 3.0) == Standing(False)
    assert observe(doubted, ready(group, 4.0), 4.0) == Standing(False, 4.0), "between the two nobody looked"


def test_a_short_absence_of_one_worker_is_not_told() -> None:
    group = plan(unready_after=3.0)
    doubted = observe(Standing(True), away(group), 10.0)
    assert doubted == Standing(True, 10.0)
    assert settles_at(doubted, away(group)) == 13.0
    assert observe(doubted, away(group), 12.0) == doubted
    assert observe(doubted, ready(group, 12.5), 12.5) == Standing(True)
    assert observe(doubted, away(group), 13.0) == Standing(False)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.RUNNING])
def test_a_group_that_stops_or_starts_anew_is_not_ready_at_once(phase: Phase) -> None:
    group = plan(unready_after=60.0)
    assert observe(Standing(True), away(group, phase), 10.0) == Standing(False)
    assert observe(Standing(True, 9.0), away(group, phase), 10.0) == Standing(False)
