"""A bottom line on a real terminal: it is the last row, never in the way of a line, and gone when it is over."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import suppress

import pytest

from supervisor import clock
from supervisor.host.terminal import PAUSE, TICK, Terminal
from tests.host.observing import until
from tests.screen import Screen, resize, terminal


class Seen:
    """A Terminal, and a person in front of it."""

    def __init__(self, ours: int, theirs: int, columns: int) -> None:
        self.ours = ours
        self.told: list[int] = []
        self.terminal = Terminal(
            theirs, limit=200_000, mark=lambda lost: b"<%d bytes missing>\n" % lost, on_dropped=self.told.append
        )
        self.screen = Screen(columns)
        self.asked: list[int] = []
        self.says = "all is well"

    def line(self, columns: int) -> str:
        self.asked.append(columns)
        return self.says[:columns]

    def look(self) -> Screen:
        """The screen with all that has been written by now."""
        with suppress(BlockingIOError):
            while data := os.read(self.ours, 1 << 16):
                self.screen.feed(data)
        return self.screen


@pytest.fixture
def seen() -> Iterator[Seen]:
    with terminal(40) as (ours, theirs):
        made = Seen(ours, theirs, 40)
        yield made
        made.terminal.close()


async def test_lines_stay_whole_and_in_order_and_the_bottom_line_is_the_last(seen: Seen) -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    print("seed", seed)
    written: list[str] = []
    seen.terminal.show(seen.line)
    for number in range(300):
        texts = (f"rank {chance.randrange(8)} line {number} " + "x" * chance.randrange(1, 20) for _ in range(3))
        bunch = list(texts)[chance.randrange(4) :]
        written += bunch
        assert seen.terminal.write("".join(f"{line}\n" for line in bunch).encode(), urgent=bool(chance.randrange(2)))
        seen.says = "all is well " * chance.randrange(1, 9)
        await asyncio.sleep(chance.choice((0, 0, 0, 0.003)))
        screen = seen.look()
        assert screen.lines == written[: len(screen.lines)]
        assert screen.bottom.startswith("all is well")
    seen.says = "nearly over"
    await until(lambda: seen.look().bottom == "nearly over")
    assert seen.screen.lines == written
    seen.terminal.take_down()
    assert (seen.look().lines, seen.screen.bottom) == (written, "")


async def test_a_line_after_a_quiet_time_is_shown_at_once_and_those_behind_it_soon(seen: Seen) -> None:
    seen.terminal.show(seen.line)
    await asyncio.sleep(PAUSE)
    seen.terminal.write(b"first\n")
    seen.terminal.write(b"second\n")
    assert (seen.look().lines, seen.screen.bottom) == (["first"], "all is well")
    written_at = clock.now()
    await until(lambda: seen.look().lines == ["first", "second"])
    assert clock.now() - written_at < TICK, "it waits for no tick"


async def test_many_small_writes_draw_the_line_ten_times_a_second_at_most(seen: Seen) -> None:
    seen.terminal.show(seen.line)
    began_at = clock.now()
    number = 0
    while clock.now() - began_at < 0.5:
        seen.terminal.write(b"%d\n" % (number := number + 1))
        seen.look()
        await asyncio.sleep(0)
    seen.terminal.take_down()
    drawn = seen.look().raw.count(b"all is well")
    assert 2 <= drawn <= (clock.now() - began_at) / PAUSE + 2
    assert seen.screen.lines == [str(one + 1) for one in range(number)]


async def test_nothing_is_written_while_nothing_changes(seen: Seen) -> None:
    seen.terminal.show(seen.line)
    before = seen.look().raw
    await until(lambda: len(seen.asked) > 1)
    assert seen.look().raw == before


async def test_no_timer_runs_before_the_line_is_shown_nor_after_it_is_taken_down(seen: Seen) -> None:
    loop = asyncio.get_running_loop()
    waiting = loop._scheduled  # type: ignore[attr-defined]  # the only place that knows all timers
    before = len(waiting)
    seen.terminal.write(b"line\n")
    assert len(waiting) == before
    seen.terminal.show(seen.line)
    assert len([timer for timer in waiting if not timer.cancelled()]) == before + 1
    seen.terminal.take_down()
    assert len([timer for timer in waiting if not timer.cancelled()]) == before


async def test_what_the_line_says_anew_is_drawn_when_asked_for(seen: Seen) -> None:
    seen.terminal.show(seen.line)
    seen.says = "two of two"
    seen.terminal.refresh()
    asked_at = clock.now()
    await until(lambda: seen.look().bottom == "two of two")
    assert clock.now() - asked_at < TICK, "it waits for no tick"
    assert seen.screen.lines == []


async def test_the_line_is_as_wide_as_the_terminal_is_now_less_what_an_echoed_ctrl_c_takes(seen: Seen) -> None:
    seen.says = "x" * 100
    seen.terminal.show(seen.line)
    assert seen.look().bottom == "x" * 38
    resize(seen.ours, 20)
    seen.terminal.refresh()
    await until(lambda: seen.look().bottom == "x" * 18)
    resize(seen.ours, 0)  # a terminal that does not know its size
    seen.terminal.refresh()
    await until(lambda: 78 in seen.asked)


async def test_characters_wider_than_we_believed_do_not_make_a_second_row(seen: Seen) -> None:
    seen.says = "漢字" * 15  # 60 columns
    seen.terminal.show(seen.line)
    seen.terminal.write(b"a line\n")
    await until(lambda: "a line" in seen.look().lines)
    assert seen.screen.lines == ["a line"]
    seen.terminal.take_down()
    assert (seen.look().lines, seen.screen.bottom) == (["a line"], "")


async def test_a_colour_that_a_worker_left_behind_does_not_reach_the_line(seen: Seen) -> None:
    seen.terminal.show(seen.line)
    await asyncio.sleep(PAUSE)
    seen.terminal.write(b"\x1b[31mred from here\n")
    assert b"here\r\n\x1b[0m\x1b[?7lall is well" in seen.look().raw


async def test_a_terminal_that_takes_nothing_for_a_while_gets_every_line_it_was_promised_and_a_mark(seen: Seen) -> None:
    seen.terminal.show(seen.line)
    lines = [f"{number:030}" for number in range(10_000)]
    taken = [line for line in lines if seen.terminal.write(line.encode() + b"\n")]
    assert 1000 < len(taken) < len(lines)
    assert taken == lines[: len(taken)]
    await until(lambda: seen.look().raw and seen.told)
    seen.terminal.write(b"the next line\n")
    await until(lambda: seen.look().bottom == "all is well" and "the next line" in seen.screen.lines)
    (missing,) = seen.told
    assert abs(missing - 31 * (len(lines) - len(taken))) < 20
    assert seen.screen.lines == [*taken, f"<{missing} bytes missing>", "the next line"]


async def test_taking_the_line_down_while_the_terminal_is_stuck_leaves_a_clean_row(seen: Seen) -> None:
    seen.terminal.show(seen.line)
    while not seen.terminal.behind:
        seen.terminal.write(b"x" * 30 + b"\n")
    seen.terminal.take_down()
    seen.terminal.write(b"last words\n")
    await until(lambda: "last words" in seen.look().lines)
    assert seen.screen.bottom == ""
    assert set(seen.screen.lines[:-1]) == {"x" * 30}


async def test_without_anything_to_say_lines_are_written_as_they_are(seen: Seen) -> None:
    seen.says = ""
    seen.terminal.show(seen.line)
    seen.terminal.write(b"one\n")
    seen.terminal.flush(1)
    seen.terminal.take_down()
    assert seen.look().raw == b"one\r\n"


async def test_a_terminal_that_is_hung_up_is_left_alone() -> None:
    with terminal() as (ours, theirs):
        gone = Terminal(theirs)
        gone.show(lambda _columns: "all is well")
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, ours)  # whoever looked at it is gone; the number stays taken until the end of the test
        os.close(null)
        gone.write(b"line\n")
        gone.refresh()
        await until(lambda: gone.broken)
        assert not gone.write(b"line\n")
        gone.take_down()
        gone.close()
