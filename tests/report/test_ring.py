"""The last records, by number."""

from __future__ import annotations

from supervisor.core.events import Event
from supervisor.report.ring import Ring


class Written:
    """A ring of four, and which numbers have been written as JSON."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.ring = Ring(self.write, 4)

    def write(self, event: Event, seq: int) -> bytes:
        self.numbers.append(seq)
        return event.message.encode()

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.ring.add(number, Event("x.y", "info", 0.0, f"record {number}"))


def test_it_gives_what_is_newer_than_a_number_in_order() -> None:
    written = Written()
    assert list(written.ring.after(0)) == []
    written.add(1, 2, 3)
    assert list(written.ring.after(1)) == [(2, b"record 2"), (3, b"record 3")]
    assert list(written.ring.after(3)) == []
    assert list(written.ring.after(99)) == []


def test_it_keeps_so_many_and_says_which_is_the_oldest() -> None:
    written = Written()
    written.add(*range(1, 11))
    assert (written.ring.oldest, written.ring.last) == (7, 10)
    assert [number for number, _ in written.ring.after(0)] == [7, 8, 9, 10]


def test_a_number_that_was_never_used_is_passed_over() -> None:
    written = Written()
    written.add(1, 2, 3, 4, 5, 8)
    assert [number for number, _ in written.ring.after(0)] == [5, 8]


def test_nothing_is_written_before_somebody_reads_it_and_then_once() -> None:
    written = Written()
    written.add(1, 2, 3)
    assert written.numbers == []
    for _ in range(2):
        list(written.ring.after(1))
    assert written.numbers == [2, 3]


def test_readers_are_woken_while_they_read() -> None:
    written = Written()
    woken: list[str] = []
    with written.ring.read(lambda: woken.append("one")):
        written.add(1)
        with written.ring.read(lambda: woken.append("two")):
            written.add(2)
    written.add(3)
    assert sorted(woken) == ["one", "one", "two"]
