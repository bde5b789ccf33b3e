"""Who is held by the kernel for longer than a limit is told of, once, and again when it is let go."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from supervisor import clock
from supervisor.core.messages import Worker
from supervisor.host import sleepers
from supervisor.host.proc import Process
from supervisor.host.sleepers import LOOKS, Sleepers
from supervisor.host.threads import Thread, family
from tests.host.held import held_for, let_go
from tests.host.observing import until

ME = Worker(0, 0)
Start = Callable[[int], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process that is held so many times; whatever happens, nothing of it stays."""
    started: list[subprocess.Popen[str]] = []

    def _start(times: int) -> subprocess.Popen[str]:
        command = held_for(tmp_path / "fifo", times)
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield _start
    for process in started:
        process.kill()
        door = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)  # whoever waits there, a child left alone, goes on
        process.communicate()
        os.close(door)


class Told:
    """What is told of the workers of a group that may sleep for ``limit`` seconds."""

    def __init__(self, limit: float) -> None:
        self.held: list[tuple[Worker, int, str]] = []
        self.let_go: list[Worker] = []
        self.sleepers = Sleepers(limit, lambda *held: self.held.append(held), self.let_go.append)


async def test_a_thread_that_is_held_is_told_of_once_and_when_it_is_let_go(start: Start, tmp_path: Path) -> None:
    process = start(1)
    await until(
        lambda: len({thread.pid for thread in family(process.pid)}) > 1
    )  # before that it may wait for the disk that it is read from
    told = Told(0.2)
    told.sleepers.started(ME, process.pid)
    begun_at = clock.now()
    await until(lambda: told.held)
    assert clock.now() - begun_at >= 0.2
    [(worker, found, details)] = told.held
    assert (worker, found) == (ME, process.pid)
    assert f"(thread of {process.pid}), D" in details
    await until(partial(_is_past, clock.now() + 0.2))
    let_go(tmp_path / "fifo")
    await until(lambda: told.let_go)
    assert len(told.held) == 1
    told.sleepers.close()


async def test_a_child_that_is_held_counts_for_its_worker(start: Start) -> None:
    process = start(1)
    told = Told(0.05)
    told.sleepers.started(ME, os.getpid())
    await until(lambda: told.held)
    assert told.held[0][1] == process.pid
    told.sleepers.ended(ME)


async def test_many_short_sleeps_are_no_long_one(start: Start, tmp_path: Path) -> None:
    """It is in state D whenever somebody looks, and yet it gets on."""
    process = start(1000)
    assert process.stdout is not None
    told = Told(0.3)
    told.sleepers.started(ME, process.pid)
    over_at = clock.now() + 1.0
    while clock.now() < over_at:
        await until(lambda: any(thread.state == "D" for thread in family(process.pid)))
        await until(partial(_is_past, clock.now() + 0.3 / LOOKS / 2))
        let_go(tmp_path / "fifo")
        assert process.stdout.readline() == "let go\n"
    assert not told.held
    told.sleepers.close()


def _is_past(at: float) -> bool:
    return clock.now() > at


async def test_another_limit_holds_from_then_on_and_without_one_nobody_is_held(start: Start, tmp_path: Path) -> None:
    process = start(1)
    await until(lambda: len(list(family(process.pid))) > 1)
    told = Told(3600.0)
    told.sleepers.started(ME, process.pid)
    told.sleepers.go_by(0.2)
    await until(lambda: told.held)
    assert not told.let_go
    told.sleepers.go_by(0.0)
    assert (told.let_go, told.sleepers.looks) == ([ME], False)
    told.sleepers.started(Worker(1, 0), os.getpid())
    assert not told.sleepers.looks
    told.sleepers.go_by(0.2)
    await until(lambda: len(told.held) == 2)
    let_go(tmp_path / "fifo")
    told.sleepers.close()


async def test_nothing_wakes_the_loop_when_nobody_is_under_watch() -> None:
    told = Told(0.05)
    looks = [told.sleepers.looks]
    told.sleepers.started(ME, os.getpid())
    looks.append(told.sleepers.looks)
    told.sleepers.ended(ME)
    told.sleepers.ended(ME)
    looks.append(told.sleepers.looks)
    assert looks == [False, True, False]


async def test_others_have_their_turn_while_a_crowd_of_threads_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = Thread(os.getpid(), Process(os.getpid(), "python3", "S", 1, 1, 1, 1))
    seen: list[int] = []

    def crowd(pid: int) -> Iterator[Thread]:
        for number in range(150):
            seen.append(number)
            yield thread

    monkeypatch.setattr(sleepers, "family", crowd)
    monkeypatch.setattr(sleepers, "SLICE", 0.0)
    told = Told(0.01)
    for rank in range(2):
        told.sleepers.started(Worker(rank, 0), os.getpid())
    turns: list[int] = []
    while len(seen) < 300:
        turns.append(len(seen))
        await asyncio.sleep(0)
    assert {later - earlier for earlier, later in pairwise(turns)} <= {0, 1, 2}
    told.sleepers.ended(Worker(0, 0))
    told.sleepers.close()
