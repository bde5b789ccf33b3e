"""What happens often is told from time to time, and none of it is left uncounted."""

from __future__ import annotations

from supervisor.core.sparing import MOST, WITHIN, Sparing


def test_some_are_told_at_once_and_a_later_one_says_how_many_were_left_out() -> None:
    sparing = Sparing()
    assert [sparing.tell(1.0) for _ in range(MOST + 2)] == [0] * MOST + [None, None]
    assert sparing.tell(1.0 + WITHIN / 2) is None
    assert [sparing.tell(1.0 + WITHIN) for _ in range(MOST + 1)] == [3] + [0] * (MOST - 1) + [None]
    assert sparing.tell(60.0) == 1
