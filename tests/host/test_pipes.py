"""Pipes are read fairly, in bounded pieces, and not oftener than is worth it."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial

import pytest

from supervisor.host.pipes import GATHER_FOR, LARGE, PIPES_A_TURN, STREAK, Pipe, Pipes
from tests.host.observing import until

LINE = 100
PIPE = 1 << 16
"""Bytes that a new pipe holds (pipe(7))."""


class Echo:
    """A sink that puts ``again`` bytes into its own pipe whenever any were taken, so that this is always ready."""

    def __init__(self, again: int = 0) -> None:
        self.again = again
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.pipe = Pipe(self.reading, ("trainer", "stdout"), self)
        self.blocks: list[int] = []

    def write(self, block: bytes) -> None:
        self.blocks.append(len(block))
        if self.again:
            os.write(self.writing, bytes(self.again))

    def finish(self) -> None:
        os.close(self.writing)


class Reading:
    """Pipes that count the loop's turns with reads in them."""

    def __init__(self) -> None:
        self.counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.pipes = Pipes(self.counts, lambda: None)
        self.echoes: list[Echo] = []

    def echo(self, size: int) -> Echo:
        made = Echo(size)
        self.echoes.append(made)
        self.pipes.add(made.pipe)
        self.pipes.flow(made.pipe)
        os.write(made.writing, bytes(size))
        return made

    def blocks(self) -> int:
        return sum(len(echo.blocks) for echo in self.echoes)

    def close(self) -> None:
        for echo in self.echoes:
            echo.again = 0
        self.pipes.close()


@pytest.fixture
async def reading() -> AsyncIterator[Reading]:
    made = Reading()
    yield made
    made.close()


async def test_every_pipe_has_its_turn_however_many_are_always_ready_and_a_turn_is_bounded(reading: Reading) -> None:
    count = 5 * PIPES_A_TURN
    for _ in range(count):
        reading.echo(PIPE)
    for _ in range(20):
        before = reading.blocks()
        await asyncio.sleep(0)
        assert reading.blocks() - before <= PIPES_A_TURN
    served = [len(echo.blocks) for echo in reading.echoes]
    assert reading.blocks() >= 2 * count
    assert max(served) - min(served) <= 1
    assert {size for echo in reading.echoes for size in echo.blocks} == {PIPE}


async def test_small_writes_in_quick_succession_are_gathered(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.host.pipes.QUICK", 10.0)
    loop = asyncio.get_running_loop()
    echo = reading.echo(LINE)
    began_at = loop.time()
    await until(lambda: len(echo.blocks) > STREAK + 20)
    assert loop.time() - began_at >= 20 * GATHER_FOR  # the first of the streak has none to follow


async def test_nothing_is_gathered_while_more_is_ready_than_a_turn_takes(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.host.pipes.QUICK", 10.0)
    for _ in range(2 * PIPES_A_TURN):
        reading.echo(LINE)
    await asyncio.sleep(0)
    for _ in range(5 * STREAK):
        before = reading.blocks()
        await asyncio.sleep(0)
        assert reading.blocks() - before == PIPES_A_TURN


async def test_a_few_lines_now_and_then_are_read_in_the_turn_they_come_in(reading: Reading) -> None:
    loop = asyncio.get_running_loop()
    echo = reading.echo(0)
    for number in range(3):
        resting = loop.create_future()
        loop.call_later(2 * GATHER_FOR, resting.set_result, None)
        await resting
        for line in range(1, STREAK + 2):
            os.write(echo.writing, b"a line\n")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(echo.blocks) == (STREAK + 1) * number + line


def large(echo: Echo) -> bool:
    return fcntl.fcntl(echo.reading, fcntl.F_GETPIPE_SZ) == LARGE


async def test_a_pipe_that_fills_while_we_gather_is_enlarged_and_only_so_many_at_a_time(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.host.pipes.QUICK", 10.0)
    monkeypatch.setattr("supervisor.host.pipes.LARGE_PIPES", 2)
    one, two, three = (reading.echo(LINE) for _ in range(3))
    await until(lambda: len(one.blocks) > STREAK)
    assert not any(map(large, reading.echoes))

    async def fill(echo: Echo) -> None:
        echo.blocks.clear()
        os.write(echo.writing, bytes(PIPE // 2))
        await until(lambda: max(echo.blocks, default=0) >= PIPE // 2)

    for echo in (one, one, two, three):
        await fill(echo)
    assert (large(one), large(two), large(three)) == (True, True, False)
    one.again = 0
    reading.pipes.end(one.pipe)
    reading.echoes.remove(one)
    await fill(three)
    assert large(three)


async def test_a_pipe_that_is_found_full_is_enlarged_and_then_read_in_larger_blocks(reading: Reading) -> None:
    echo = reading.echo(PIPE)
    await until(partial(large, echo))
    os.write(echo.writing, bytes(LARGE - PIPE))
    await until(lambda: max(echo.blocks) > PIPE)


async def test_a_pipe_at_rest_is_not_read(reading: Reading) -> None:
    made = Echo()
    reading.echoes.append(made)
    reading.pipes.add(made.pipe)
    os.write(made.writing, b"a line\n")
    for _ in range(5):
        await asyncio.sleep(0)
    assert made.blocks == []
    reading.pipes.flow(made.pipe)
    await until(lambda: made.blocks)
    assert reading.counts == {("trainer", "stdout"): 7}


async def test_a_drain_takes_what_was_there_and_not_what_comes_meanwhile(reading: Reading) -> None:
    echo = reading.echo(PIPE)
    reading.pipes.drain(echo.pipe)
    assert echo.blocks == [PIPE]


async def test_an_ended_pipe_is_forgotten_even_if_a_process_that_has_not_come_to_exec_yet_holds_it(
    reading: Reading,
) -> None:
    echo = reading.echo(0)
    held = os.dup(echo.reading)
    writing = os.dup(echo.writing)
    reading.pipes.end(echo.pipe)
    os.write(writing, b"a line\n")
    assert reading.pipes._ready.poll(0) == []
    os.close(held)
    os.close(writing)


async def test_close_while_gathering_is_the_end_of_it(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.host.pipes.QUICK", 10.0)
    loop = asyncio.get_running_loop()
    went_wrong: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, what: went_wrong.append(what))
    reading.echo(LINE)
    await until(lambda: reading.pipes._gathering)
    reading.close()
    after = loop.create_future()
    loop.call_later(2 * GATHER_FOR, after.set_result, None)
    await after
    assert went_wrong == []
