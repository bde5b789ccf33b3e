"""The nearest of many deadlines is always the true one, and keeping them costs little."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.deadlines import Deadlines

KEYS = st.sampled_from("abcdefgh")
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.integers(0, 100)),
    st.tuples(st.just("drop"), KEYS, st.just(0)),
    st.tuples(st.just("put off"), st.just(""), st.integers(0, 10)),
    st.tuples(st.just("pop"), st.just(""), st.integers(0, 100)),
    st.tuples(st.just("clear"), st.just(""), st.just(0)),
)


@given(st.lists(STEPS, max_size=200))
def test_it_answers_as_a_dict_that_is_searched_each_time(steps: list[tuple[str, str, int]]) -> None:
    table: Deadlines[str] = Deadlines()
    model: dict[str, float] = {}
    for what, key, number in steps:
        match what:
            case "set":
                table.set(key, number)
                model[key] = number
            case "drop":
                table.drop(key)
                model.pop(key, None)
            case "put off":
                table.put_off(number)
                model = {key: at + number for key, at in model.items()}
            case "pop":
                due = table.pop(number)
                assert (due is not None) == (bool(model) and min(model.values()) <= number)
                if due is not None:
                    assert model.pop(due[0]) == due[1]
                    assert due[1] <= min(model.values(), default=due[1])
            case "clear":
                table.clear()
                model.clear()
        assert table.nearest() == min(model.values(), default=None)
        assert len(table) == len(model)
        assert [table.at(key) for key in "abcdefgh"] == [model.get(key) for key in "abcdefgh"]


def test_what_is_set_and_dropped_for_ever_takes_no_more_room() -> None:
    table: Deadlines[int] = Deadlines()
    for number in range(10_000):
        table.set(number, 1000.0 + number)
        table.drop(number)
    assert len(table._heap) < 200
    for number in range(10_000):
        table.set(0, 9000.0 - number / 10)
    assert len(table._heap) < 200
    assert table.nearest() == 9000.0 - 999.9


def test_a_deadline_that_only_moves_away_is_never_queued_twice() -> None:
    table: Deadlines[int] = Deadlines()
    for at in range(10_000):
        for key in range(2):
            table.set(key, at)
    assert len(table._heap) == 2
    assert table.nearest() == 9999


def test_those_due_at_one_instant_come_out_in_the_order_in_which_they_were_set() -> None:
    table: Deadlines[object] = Deadlines()
    keys = [object() for _ in range(10)]  # which no heap could compare
    for key in keys:
        table.set(key, 5.0)
    found = []
    while due := table.pop(5.0):
        found.append(due[0])
    assert found == keys


def test_keys_that_are_dropped_one_by_one_or_together_do_not_stay_in_the_heap() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for key in range(1000):
        deadlines.set(key, float(key))
    for key in range(800):
        deadlines.drop(key)
    assert (len(deadlines), deadlines.nearest()) == (200, 800.0)
    assert len(deadlines._heap) < 500
    deadlines.drop_all(range(799, 999))
    assert (len(deadlines), deadlines.nearest()) == (1, 999.0)
    assert len(deadlines._heap) < 100
