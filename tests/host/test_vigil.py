"""Whoever is silent for too long is told of, once, and nobody else: real processes, real doors, real time."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from supervisor import clock
from supervisor.core.messages import Worker
from supervisor.core.timers import TimerExpired
from supervisor.core.watchdog import Expired, Silent
from supervisor.host import notify
from supervisor.host import vigil as under_test
from supervisor.host.proc import Process, open_proved, read_process
from supervisor.host.vigil import Vigil
from supervisor.plan import WatchdogRules
from tests.host.observing import open_fds, until

ME = Worker(0, 0)
SHORT = 0.05


class Watch:
    """A vigil over this very process, and what it has told."""

    def __init__(self, directory: Path, rules: WatchdogRules) -> None:
        self.found: list[tuple[Worker, Expired]] = []
        self.refused: list[TimerExpired] = []
        self.ready: list[Worker] = []
        self.stopping: list[Worker] = []
        self.stood_still: list[float] = []
        self.members = {os.getpid(): ME}
        self.vigil = Vigil(
            rules,
            str(directory),
            whose=self._whose,
            found=lambda *found: self.found.append(found),
            refused=self.refused.append,
            ready=self.ready.append,
            stopping=self.stopping.append,
            probed=True,
            stood_still=self.stood_still.append,
        )

    def _whose(self, process: Process) -> Worker | None:
        return self.members.get(process.pid)

    def say(self, words: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(words.encode(), self.vigil.environment["NOTIFY_SOCKET"])

    def set(self, after: float, pid: int | None = None, **fields: Any) -> None:
        request = {"version": 1, "pid": pid or os.getpid(), "scope_id": "s", "signal": 9, **fields}
        request.setdefault("expiration_time", time.time() + after)
        with open(self.vigil.environment["TORCHELASTIC_TIMER_FILE"], "w", encoding="ascii") as pipe:
            pipe.write(json.dumps(request) + "\n")


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    made = Watch(tmp_path, WatchdogRules(heartbeat=SHORT, sections={"step": SHORT}))
    made.vigil.started(ME, os.getpid())
    yield made
    made.vigil.close()


def stranger() -> subprocess.Popen[bytes]:
    """A process that lives until its stdin is closed."""
    return subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def without_its_main_thread() -> subprocess.Popen[bytes]:
    """A process of which another thread lives until stdin is closed, and the main one ends when it has written."""
    script = """
import ctypes, os, sys, threading
reading = threading.Thread(target=os.read, args=(0, 1))
reading.start()
print(flush=True)
ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)
"""
    exit_of_a_thread = {"x86_64": "60"}.get(os.uname().machine, "93")  # the others share one table (syscalls(2))
    command = [sys.executable, "-S", "-c", script, exit_of_a_thread]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def stand_still(seconds: float) -> None:
    """The loop does not turn meanwhile."""
    time.sleep(seconds)


async def test_a_worker_is_ready_once_and_found_when_its_heartbeat_does_not_come(watch: Watch) -> None:
    watch.say("READY=1")
    watch.say("READY=1")
    await until(lambda: watch.found)
    [(worker, silent)] = watch.found
    assert isinstance(silent, Silent)
    assert (worker, silent.what, silent.limit, watch.ready) == (ME, "heartbeat", SHORT, [ME])
    assert clock.now() >= silent.since + SHORT
    assert watch.vigil._alarm is None  # there is nothing more to wake up for


async def test_what_was_said_in_time_and_is_heard_late_was_in_time(watch: Watch) -> None:
    watch.say("X_SECTION_BEGIN=step")
    await until(lambda: watch.vigil._alarm)
    stand_still(2 * SHORT)  # the deadline and the word are there at once
    watch.say("X_SECTION_END=step")
    await until(lambda: watch.vigil._alarm is None)
    assert watch.found == []


async def test_what_is_told_may_end_the_vigil(tmp_path: Path) -> None:
    watch = Watch(tmp_path, WatchdogRules(boot=SHORT))

    def found(worker: Worker, expired: Expired) -> None:
        watch.found.append((worker, expired))
        watch.vigil.close()

    watch.vigil._found = found
    watch.vigil.started(ME, os.getpid())
    watch.vigil.started(Worker(1, 0), os.getppid())
    watch.set(60)
    watch.vigil.started(Worker(2, 0), 1)
    await until(lambda: watch.found)
    assert watch.vigil._alarm is None


async def test_a_timer_of_a_worker_expires_and_takes_its_other_deadlines_along(watch: Watch) -> None:
    watch.say("X_SECTION_BEGIN=another")
    watch.set(60, scope_id="later")
    watch.set(SHORT, scope_id="first", signal=15)
    await until(lambda: watch.found)
    [(worker, expired)] = watch.found
    assert isinstance(expired, TimerExpired)
    assert (worker, expired.scope, expired.signal, watch.vigil.timers) == (ME, "first", 15, 0)


async def test_a_timer_without_a_signal_is_reported_and_ends_nothing(watch: Watch) -> None:
    watch.set(60, scope_id="later")
    watch.set(SHORT, signal=0)
    await until(lambda: watch.found)
    assert watch.vigil.timers == 1


@pytest.mark.parametrize("pid", [1, "parent", "stranger"])
async def test_a_timer_for_a_process_that_is_no_workers_is_refused(watch: Watch, pid: int | str) -> None:
    with stranger() as process:
        number = {"parent": os.getppid(), "stranger": process.pid}.get(str(pid), 1)
        watch.set(SHORT, pid=number)
        await until(lambda: watch.refused)
        assert ([expired.pid for expired in watch.refused], watch.found) == ([number], [])
        assert process.poll() is None
        assert process.stdin
        process.stdin.close()


async def test_a_timer_of_a_process_that_has_ended_is_nobodys(watch: Watch) -> None:
    with stranger() as process:
        assert process.stdin
        process.stdin.close()
    watch.set(-10, pid=process.pid)
    await until(lambda: watch.vigil.timers)
    await until(lambda: not watch.vigil.timers)
    assert (watch.found, watch.refused) == ([], [])


async def test_a_number_used_again_since_the_timer_was_set_is_not_its_process(watch: Watch) -> None:
    with stranger() as process:
        watch.members[process.pid] = ME
        watch.vigil._tell(TimerExpired(process.pid, "s", 9, set_at=clock.now() - 60, at=clock.now()))
        assert (watch.found, len(watch.refused)) == ([], 1)
        watch.vigil._tell(TimerExpired(process.pid, "s", 9, set_at=clock.now(), at=clock.now()))
        assert len(watch.found) == 1
        assert process.stdin
        process.stdin.close()


async def test_a_descendant_is_heard_for_its_worker_and_a_stranger_is_not(watch: Watch) -> None:
    watch.vigil.ended(ME, os.getpid())
    watch.vigil.started(ME, 1)  # so that we are no leader
    watch.say("READY=1")
    await until(lambda: watch.ready)
    watch.members.clear()
    watch.say("READY=1")
    await until(lambda: watch.vigil.refusals["sender"])
    assert watch.ready == [ME]


async def test_while_we_stood_still_nobody_was_late(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "LATE", SHORT)
    watch.say("READY=1")
    await until(lambda: watch.ready)
    stand_still(5 * SHORT)
    await until(lambda: watch.stood_still)
    assert watch.found == []
    assert watch.stood_still[0] >= 4 * SHORT
    await until(lambda: watch.found)


async def test_a_timer_that_was_due_before_it_was_set_is_no_sign_that_we_stood_still(watch: Watch) -> None:
    watch.set(-3600.0, signal=0)
    await until(lambda: watch.found)
    assert watch.stood_still == []


async def test_nor_was_whoever_had_said_something_that_we_could_not_read(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "LATE", SHORT)
    watch.say("READY=1")
    await until(lambda: watch.ready)
    with stranger() as process:
        watch.members[process.pid] = Worker(1, 0)
        watch.set(2 * SHORT, pid=process.pid)  # not read before we stand still: it is due before it is known
        watch.say("STATUS=here")
        stand_still(6 * SHORT)
        await until(lambda: watch.stood_still)
        assert (watch.found, watch.vigil.timers) == ([], 1)
        await until(lambda: len(watch.found) == 2)
        assert len(watch.stood_still) == 1
        assert process.stdin
        process.stdin.close()


async def test_nobody_is_put_off_by_the_time_that_the_loop_ran_before_it_stood_still(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "LATE", SHORT)
    watch.vigil._ran = lambda by: by - SHORT / 2
    watch.set(10 * SHORT)
    await until(lambda: watch.vigil.timers)
    began_at = clock.now()
    while clock.now() < began_at + 8 * SHORT:  # noqa: ASYNC110 -- the loop turns, for others than the vigil
        await asyncio.sleep(0.001)
    stand_still(6 * SHORT)
    await until(lambda: watch.stood_still)
    assert watch.stood_still[0] <= 6 * SHORT


async def test_a_timer_of_a_process_whose_main_thread_has_ended_and_others_have_not_expires(watch: Watch) -> None:
    with without_its_main_thread() as process:
        watch.members[process.pid] = ME
        try:
            assert process.stdout
            process.stdout.readline()
            await until(lambda: (seen := read_process(process.pid)) and seen.state == "Z")
            watch.set(SHORT, pid=process.pid)
            await until(lambda: watch.found)
            stands = read_process(process.pid)
            assert stands is not None
            pidfd = open_proved(stands)
            assert pidfd is not None
            os.close(pidfd)
        finally:
            process.kill()


async def test_a_timer_that_expires_when_descriptors_are_short_expires_when_they_are_not(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def short_of_descriptors(pid: int) -> Process | None:
        tried.append(pid)
        if len(tried) < 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read_process(pid)

    monkeypatch.setattr(under_test, "AGAIN", SHORT)
    monkeypatch.setattr(under_test, "read_process", short_of_descriptors)
    watch.set(SHORT)
    await until(lambda: watch.found)
    assert (len(tried), len(watch.found), watch.vigil.timers) == (3, 1, 0)


async def test_a_number_that_is_another_workers_already_stays_its_own(watch: Watch) -> None:
    watch.vigil.started(Worker(1, 0), os.getpid())
    watch.vigil.ended(ME, os.getpid())
    watch.members.clear()
    watch.say("READY=1")
    await until(lambda: watch.ready)
    assert watch.ready == [Worker(1, 0)]
    watch.vigil.ended(Worker(1, 0), os.getpid())


async def test_all_that_was_said_before_a_deadline_is_heard_first(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "A_TURN", 1)
    watch.say("X_SECTION_BEGIN=step")
    await until(lambda: watch.vigil._alarm)
    stand_still(2 * SHORT)
    for _ in range(5):
        watch.say("STATUS=waits for others to be heard")
    watch.say("X_SECTION_END=step")
    await until(lambda: watch.vigil._alarm is None)
    assert watch.found == []


async def test_a_thousand_timers_cost_an_idle_group_no_wake_up(watch: Watch) -> None:
    for number in range(1000):
        watch.set(600, scope_id=str(number))
    await until(lambda: watch.vigil.timers == 1000)
    loop = asyncio.get_running_loop()
    assert watch.vigil._alarm is not None
    assert watch.vigil._alarm.when() > loop.time() + 300


async def test_workers_are_given_the_doors_that_there_are_and_a_closed_vigil_leaves_nothing(tmp_path: Path) -> None:
    before = open_fds()
    watch = Watch(tmp_path, WatchdogRules(heartbeat=1.5, timer_file=False))
    assert watch.vigil.environment == {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "1500000"}
    watch.vigil.started(ME, os.getpid())
    watch.say("READY=1\nSTATUS=up\nWATCHDOG=1")
    await until(lambda: watch.ready)
    told = watch.vigil.told(ME)
    assert told is not None
    assert (told.status, watch.vigil.heartbeats, watch.vigil.timers, sum(watch.vigil.refusals.values())) == (
        "up",
        1,
        0,
        0,
    )
    watch.vigil.close()
    watch.vigil.close()
    Watch(tmp_path, WatchdogRules()).vigil.close()
    (tmp_path / "timers").mkdir()
    with pytest.raises(IsADirectoryError):
        Watch(tmp_path, WatchdogRules())
    assert open_fds() == before
