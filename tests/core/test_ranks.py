"""``Ranks`` is a mapping by rank that never changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.ranks import Ranks

changes = st.lists(st.tuples(st.integers(0, 100), st.none() | st.integers()), max_size=60)


@given(st.integers(0, 70), changes)
def test_it_holds_what_a_dict_would_and_its_former_selves_stay_as_they_were(
    dense: int, changes: list[tuple[int, int | None]]
) -> None:
    ranks, known = Ranks(range(dense)), dict(enumerate(range(dense)))
    past: list[tuple[Ranks[int], dict[int, int]]] = []
    for rank, value in changes:
        past.append((ranks, dict(known)))
        if value is None:
            ranks = ranks.drop(rank)
            known.pop(rank, None)
        else:
            ranks = ranks.put(rank, value)
            known[rank] = value
    for held, wanted in [*past, (ranks, known)]:
        assert held.items() == sorted(wanted.items())
        assert held.values() == [value for _, value in sorted(wanted.items())]
        assert list(held) == sorted(wanted)
        assert len(held) == len(wanted)
        assert bool(held) is bool(wanted)
        assert all((rank in held) is (rank in wanted) and held.get(rank) == wanted.get(rank) for rank in range(-5, 140))


def test_what_is_not_there_is_a_key_error() -> None:
    ranks = Ranks("ab")
    assert (ranks[0], ranks[1]) == ("a", "b")
    for rank in (2, 40, -1, 10**9):
        with pytest.raises(KeyError):
            ranks[rank]
        assert ranks.drop(rank) is ranks


def test_two_are_equal_when_they_hold_the_same_however_they_came_to_it() -> None:
    assert Ranks("ab") == Ranks("a").put(1, "b") == Ranks("abc").put(70, "x").drop(70).drop(2)
    assert hash(Ranks("ab")) == hash(Ranks("a").put(1, "b"))
    assert Ranks("ab") != Ranks("ac")
    assert Ranks("ab") != {0: "a", 1: "b"}
    assert repr(Ranks("ab").drop(0)) == "Ranks({1: 'b'})"
