"""Instants are monotonic; dates and words are made of them at the door."""

from __future__ import annotations

import re
import time
from datetime import datetime

import pytest

from supervisor import clock


def test_an_instant_becomes_the_date_that_the_wall_clock_gives_it() -> None:
    before = time.time()
    at = clock.wall(clock.now())
    assert before - 0.001 <= at <= time.time() + 0.001
    assert clock.wall(clock.now() - 60.0) == pytest.approx(time.time() - 60.0, abs=1.0)


def test_a_record_is_dated_in_utc_with_microseconds() -> None:
    text = clock.rfc3339(clock.now())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    assert abs(datetime.fromisoformat(text).timestamp() - time.time()) < 5.0


def test_a_stepped_wall_clock_changes_dates_and_not_instants(monkeypatch: pytest.MonkeyPatch) -> None:
    at = clock.now()
    before = clock.wall(at)
    really = time.time
    monkeypatch.setattr(time, "time", lambda: really() + 3600.0)
    assert clock.wall(at) - before == pytest.approx(3600.0, abs=0.1)
    assert clock.now() - at < 60.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1.0, "0 ms"),
        (0.0, "0 ms"),
        (0.35, "350 ms"),
        (1.0, "1.0 s"),
        (4.2, "4.2 s"),
        (12.4, "12 s"),
        (60.0, "1 min"),
        (200.0, "3 min 20 s"),
        (3600.0, "1 h"),
        (7500.0, "2 h 5 min"),
        (86400.0, "1 d"),
        (3 * 86400.0 + 4 * 3600.0, "3 d 4 h"),
        (400 * 86400.0, "400 d"),
    ],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert clock.words(seconds) == words
