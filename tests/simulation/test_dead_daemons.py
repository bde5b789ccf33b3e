"""Random histories of daemons that are killed: the next start ends all that is proved theirs, and nothing else.

Each history is one machine with few process numbers, so that they are given anew all the time: workers that start,
fork, leave their session, forget their environment and end; strangers that take their numbers; a ``state.json`` that is
written when it is due or not, and is old, cut off or lost when the daemon is dead; a reboot now and then. The files are
real, and all the code that reads them and signals; the kernel is not.

``HISTORIES=n`` is how many there are; ``SEED=n``, printed by a failure, replays that one alone.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from supervisor.host import leftovers, proc, state
from supervisor.host.containment import MARK
from supervisor.host.disk import Disk
from supervisor.host.leftovers import end_earlier
from supervisor.host.proc import Process
from supervisor.host.state import Daemon, StateFile
from tests.host.disks import AtOnce

HISTORIES = int(os.environ.get("HISTORIES", "1000"))
NUMBERS = range(100, 150)
GROUP_FLAG = 4


@dataclass(frozen=True)
class Simulated:
    """A process: what /proc shows of it, the mark in its environment, and whether it truly comes from a worker."""

    seen: Process
    mark: str
    ours: bool


class Timers:
    """As much of an event loop as a ``StateFile`` asks for: what is due is done when the history says so."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def time(self) -> float:
        return 0.0

    def call_at(self, _at: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self.due.append(callback)
        return cast(asyncio.TimerHandle, None)


class Machine:
    """Processes by number, a clock in ticks, and what has been signalled."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.boot = "0" * 36
        self.now = 1000
        self.running: dict[int, Simulated] = {}
        self.freed: dict[int, int] = {}
        self.opened: dict[int, Simulated] = {}
        self.signalled: list[Simulated] = []

    # ---- what happens on it

    def number(self) -> int:
        """A free one: that of no process, group or session (fork in POSIX), and of none that has just ended."""
        taken = {n for one in self.running.values() for n in (one.seen.pid, one.seen.group, one.seen.session)}
        return self.chance.choice([n for n in NUMBERS if n not in taken and self.freed.get(n, -1) < self.now])

    def start(self, parent: int, *, mark: str = "", ours: bool = False, session: int = 0) -> int:
        """``session`` 0: its own."""
        pid = self.number()
        process = Process(pid, "process", "S", parent, session or pid, session or pid, self.now)
        self.running[pid] = Simulated(process, mark, ours)
        return pid

    def fork(self, pid: int) -> int:
        one = self.running[pid]
        child = self.number()
        self.running[child] = replace(one, seen=one.seen._replace(pid=child, parent=pid, started=self.now))
        return child

    def leave_session(self, pid: int) -> None:
        one = self.running[pid]
        if pid != one.seen.group:  # else: EPERM (setsid(2))
            self.running[pid] = replace(one, seen=one.seen._replace(group=pid, session=pid))

    def end(self, pid: int, heir: int = 1) -> None:
        del self.running[pid]
        self.freed[pid] = self.now
        for child, one in list(self.running.items()):
            if one.seen.parent == pid:
                self.running[child] = replace(one, seen=one.seen._replace(parent=heir))

    def some(self, *, ours: bool) -> int | None:
        found = [pid for pid, one in self.running.items() if one.ours is ours]
        return self.chance.choice(found) if found else None

    def happen(self, heir: int) -> None:
        """One thing, to a process of a worker or to a stranger; orphans go to ``heir``."""
        if len(self.running) > len(NUMBERS) // 2:
            return
        self.now += self.chance.randrange(3)
        pid = self.some(ours=self.chance.random() < 0.7)
        if pid is None or pid == heir:
            return
        match self.chance.choice(["fork", "fork", "leave", "forget", "end", "stranger", "stranger"]):
            case "fork":
                self.fork(pid)
            case "leave":
                self.leave_session(pid)
            case "forget":
                self.running[pid] = replace(self.running[pid], mark="")
            case "end" if pid != self.running[pid].seen.session or not self.running[pid].ours:
                self.end(pid, heir)  # a worker itself ends where the daemon knows of it
            case "stranger":
                self.start(1, mark=self.chance.choice(["", "", "aaaaaaaaaaaa.1", "aaaaaaaaaaaa.2/bbbbbbbbbbbb.1"]))

    # ---- what the code sees of it

    def read_process(self, pid: int) -> Process | None:
        return self.running[pid].seen if pid in self.running else None

    def processes(self, besides: Collection[int]) -> Iterator[Process]:
        return iter([one.seen for pid, one in self.running.items() if pid not in besides])

    def inherited(self, pid: int, name: str) -> str:
        assert name == MARK
        return self.running[pid].mark if pid in self.running else ""

    def pidfd_open(self, pid: int) -> int:
        if pid not in self.running:
            raise ProcessLookupError
        pidfd = os.open(os.devnull, os.O_RDONLY)
        self.opened[pidfd] = self.running[pid]
        return pidfd

    def pidfd_send_signal(self, pidfd: int, number: int, _info: None = None, flags: int = 0) -> None:
        assert number == signal.SIGKILL
        target = self.opened[pidfd].seen
        hit = [one for one in self.running.values() if one.seen.identity == target.identity]
        if flags == GROUP_FLAG:
            hit = [one for one in self.running.values() if one.seen.group == target.pid]
        for one in hit:
            self.signalled.append(one)
            self.end(one.seen.pid)

    def wait(self, _pidfds: object, _seconds: float) -> None:
        """Meanwhile what is not dead goes on."""
        self.now += 1
        if self.chance.random() < 0.3:
            self.happen(1)


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    def install(machine: Machine) -> None:
        for module in (proc, leftovers, state):
            monkeypatch.setattr(module, "read_process", machine.read_process)
        for module in (proc, leftovers):
            monkeypatch.setattr(module, "processes", machine.processes)
            monkeypatch.setattr(module, "inherited", machine.inherited)
        monkeypatch.setattr(leftovers, "_wait", machine.wait)
        monkeypatch.setattr(state, "boot_id", lambda: machine.boot)
        monkeypatch.setattr(state, "ticks", lambda: machine.now)
        monkeypatch.setattr(os, "pidfd_open", machine.pidfd_open)
        monkeypatch.setattr(signal, "pidfd_send_signal", machine.pidfd_send_signal)

    return install


def live(machine: Machine, daemon: Daemon, directory: Path) -> list[bytes]:
    """The daemon's life up to its death at any moment; returns every state that it has written."""
    chance = machine.chance
    timers = Timers()
    file = StateFile(
        str(directory), daemon, "run", cast(asyncio.AbstractEventLoop, timers), lambda _: None, cast(Disk, AtOnce())
    )
    path = directory / state.NAME
    written = [path.read_bytes()]
    workers: dict[int, int] = {}
    for step in range(chance.randrange(60)):
        machine.happen(daemon.pid)
        match chance.choice(["start", "end", "write", "nothing"]):
            case "start" if len(machine.running) < len(NUMBERS) // 2:
                workers[step] = machine.start(daemon.pid, mark=f"{daemon.mark}.{step}", ours=True)
                file.started("job", step, 0, workers[step])
            case "end" if workers:
                rank = chance.choice(list(workers))
                machine.end(workers.pop(rank), daemon.pid)
                file.ended("job", rank)
            case "write":
                for callback in timers.due[:]:
                    timers.due.remove(callback)
                    callback()
                written.append(path.read_bytes())
    return written


def history(seed: int, directory: Path, simulate: Callable[[Machine], None]) -> tuple[int, int]:
    """Returns how many were ended, and how many had to be."""
    chance = random.Random(seed)
    machine = Machine(chance)
    simulate(machine)
    shell = machine.start(1)
    pid = machine.start(shell, session=chance.choice([0, shell]))
    process = machine.running[pid].seen
    daemon = Daemon(pid, process.started, process.session, f"{chance.getrandbits(48):012x}")
    written = live(machine, daemon, directory)
    machine.end(pid)
    for _ in range(chance.randrange(20)):
        machine.happen(1)
        if chance.random() < 0.2 and (worker := machine.some(ours=True)) is not None:
            machine.end(worker)
    path = directory / state.NAME
    fate = chance.choice(["as it was", "as it was", "old", "cut off", "lost", "rebooted"])
    match fate:
        case "old":
            path.write_bytes(chance.choice(written))
        case "cut off":
            path.write_bytes(written[-1][: chance.randrange(len(written[-1]) - 1)])
        case "lost":
            path.unlink()
        case "rebooted":
            machine.boot = "1" * 36
            machine.running = {n: replace(one, ours=False, mark="") for n, one in machine.running.items()}

    earlier = end_earlier(str(directory))

    assert all(one.ours for one in machine.signalled), f"signalled: {[o for o in machine.signalled if not o.ours]}"
    if fate in ("cut off", "lost", "rebooted"):
        assert not machine.signalled
        assert bool(earlier.refused) == (fate == "cut off")
        return 0, 0
    marked = [
        one
        for one in machine.running.values()
        if one.mark.startswith(f"{daemon.mark}.")
        # what is in a session without its leader that has the number of the daemon's own may be of people
        and not (one.seen.session == daemon.session and one.seen.session not in machine.running)
    ]
    assert not marked, f"left alive: {marked}"
    recorded = {(worker.pid, worker.started) for worker in state.parse(path.read_bytes()).workers}
    assert not [one for one in machine.running.values() if one.seen.identity in recorded]
    assert not earlier.ended.left
    return len(machine.signalled), len(recorded)


def test_the_next_start_ends_what_is_proved_theirs_and_nothing_else(
    tmp_path: Path, simulate: Callable[[Machine], None]
) -> None:
    one = os.environ.get("SEED")
    seeds = [int(one)] if one else [random.SystemRandom().getrandbits(32) for _ in range(HISTORIES)]
    ended = recorded = 0
    for seed in seeds:
        directory = tmp_path / str(seed)
        directory.mkdir()
        try:
            killed, known = history(seed, directory, simulate)
        except BaseException:
            print("SEED =", seed)
            raise
        ended += killed
        recorded += known
    print(f"{len(seeds)} histories: {ended} ended, {recorded} recorded")
    assert one or ended > len(seeds), "histories in which hardly anything is left prove nothing"
