"""torch's timers: set, released, nested under one name, and due."""

from __future__ import annotations

import pytest

from supervisor.core import timers
from supervisor.core.timers import TimerExpired, TimerRequest, Timers

DEFAULT = "/usr/lib/python3.11/contextlib.py#137"


def set(pid: int, scope: str, at: float, signal: int = 9) -> TimerRequest:
    return TimerRequest(pid, scope, at, signal)


def release(pid: int, scope: str) -> TimerRequest:
    return TimerRequest(pid, scope, None, 0)


def table(*requests: TimerRequest, now: float = 1.0) -> Timers:
    made = Timers()
    for request in requests:
        made.take(request, now)
    return made


def test_a_timer_is_due_at_its_time_and_not_before() -> None:
    made = table(set(7, "step", 50.0))
    assert (made.nearest(), len(made)) == (50.0, 1)
    assert made.pop(49.9) is None
    assert made.pop(50.0) == TimerExpired(7, "step", 9, set_at=1.0, at=50.0)
    assert (made.nearest(), len(made), made.pop(99.0)) == (None, 0, None)


def test_one_that_is_released_is_never_due_and_the_release_of_another_is_nothing() -> None:
    made = table(set(7, "a", 50.0), set(7, "b", 60.0), release(7, "a"), release(7, "a"), release(8, "b"))
    assert (made.nearest(), len(made)) == (60.0, 1)


@pytest.mark.parametrize("again", [40.0, 90.0])
def test_one_set_again_is_due_at_its_new_time_only(again: float) -> None:
    made = table(set(7, "a", 50.0), set(7, "a", again))
    assert (made.nearest(), len(made)) == (again, 1)
    made.take(release(7, "a"), 2.0)
    assert (made.nearest(), len(made)) == (None, 0)


@pytest.mark.parametrize(("inner", "left"), [(20.0, 50.0), (80.0, 80.0)])
def test_the_end_of_an_inner_timer_of_torchs_one_name_leaves_the_outer_one_set(inner: float, left: float) -> None:
    made = table(set(7, DEFAULT, 50.0), set(7, DEFAULT, inner))
    assert (made.nearest(), len(made)) == (min(inner, 50.0), 2)
    made.take(release(7, DEFAULT), 2.0)
    assert made.nearest() == left >= 50.0
    made.take(release(7, DEFAULT), 2.0)
    assert (made.nearest(), len(made)) == (None, 0)


def test_a_scope_nested_without_end_is_bounded() -> None:
    made = table(*(set(7, DEFAULT, 50.0) for _ in range(timers.DEEP + 5)))
    assert (len(made), made.refused) == (timers.DEEP, 5)


def test_the_first_with_a_signal_takes_all_others_of_its_process_along() -> None:
    made = table(set(7, "a", 50.0, 15), set(7, "b", 40.0), set(7, DEFAULT, 60.0), set(8, "a", 55.0))
    expired = made.pop(100.0)
    assert expired == TimerExpired(7, "b", 9, 1.0, 40.0)
    assert made.pop(100.0) == TimerExpired(8, "a", 9, 1.0, 55.0)
    assert (made.pop(100.0), len(made)) == (None, 0)


def test_one_without_a_signal_is_over_alone() -> None:
    made = table(set(7, DEFAULT, 40.0, 0), set(7, DEFAULT, 50.0, 0), set(7, "b", 60.0, 15))
    found = [made.pop(100.0) for _ in range(4)]
    assert [(one.signal, one.at) for one in found if one] == [(0, 40.0), (0, 50.0), (15, 60.0)]


def test_a_process_that_has_ended_has_no_timers() -> None:
    made = table(set(7, "a", 50.0), set(7, DEFAULT, 50.0), set(8, "a", 60.0))
    made.forget(7)
    made.forget(9)
    assert (made.nearest(), len(made)) == (60.0, 1)
    made.clear()
    assert (made.nearest(), len(made)) == (None, 0)


def test_what_is_put_off_is_due_later_and_the_timers_nested_in_it_as_well() -> None:
    made = table(set(7, DEFAULT, 50.0), set(7, DEFAULT, 60.0))
    made.put_off(100.0)
    assert made.nearest() == 150.0
    made.take(release(7, DEFAULT), 120.0)
    assert made.nearest() == 160.0
    made.take(set(8, "set meanwhile", 130.0), 120.0)
    assert made.nearest() == 130.0


def test_there_is_no_room_for_timers_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "TIMERS", 100)
    made = table(*(set(pid, "a", 50.0) for pid in range(150)))
    assert (len(made), made.refused) == (100, 50)
    made.take(set(3, "a", 20.0), 1.0)
    assert (made.nearest(), made.refused) == (20.0, 50)  # one that is there may be set again


def test_ten_thousand_live_timers_are_due_in_order() -> None:
    count = 10_000
    made = table(*(set(pid % 1000 + 1, str(pid), 100.0 + pid * 7919 % count, 0) for pid in range(count)))
    assert len(made) == count
    instants = []
    while expired := made.pop(1e9):
        instants.append(expired.at)
    assert instants == sorted(instants)
    assert len(instants) == count
