"""Signals arrive in the loop, all of them, and leave no trace in children: real signals, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from supervisor.host.signals import signal_door

_USUAL = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


class Heard:
    """Callbacks that note which signal they were for."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.news = asyncio.Event()

    def callbacks(self, *numbers: int) -> dict[int, Callable[[], None]]:
        return {number: self._noting(number) for number in numbers}

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not enough():
                self.news.clear()
                await self.news.wait()

    def _noting(self, number: int) -> Callable[[], None]:
        def note() -> None:
            self.numbers.append(number)
            self.news.set()

        return note


def kill_from_outside(name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", f"kill -{name} {os.getpid()}"])


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_every_signal_runs_its_own_callback_in_the_loop() -> None:
    heard = Heard()
    with signal_door(heard.callbacks(*_USUAL)):
        for number in _USUAL:
            os.kill(os.getpid(), number)
            assert number not in heard.numbers, "a callback runs in the loop, not wherever the signal struck"
            await heard.until(lambda number=number: number in heard.numbers)  # type: ignore[misc]
    assert heard.numbers == list(_USUAL)


async def test_a_sleeping_loop_is_woken_by_another_process() -> None:
    heard = Heard()
    with signal_door(heard.callbacks(signal.SIGUSR1)):
        sender = kill_from_outside("USR1")
        await heard.until(lambda: bool(heard.numbers))
        assert sender.wait(timeout=10) == 0
    assert heard.numbers == [signal.SIGUSR1]


async def test_a_sleeping_loop_is_woken_by_a_signal_that_another_thread_took() -> None:
    heard = Heard()
    done = threading.Event()
    other = threading.Thread(target=done.wait, args=(20,))
    with signal_door(heard.callbacks(signal.SIGUSR1)):
        other.start()
        assert other.ident is not None
        asyncio.get_running_loop().call_later(0.05, signal.pthread_kill, other.ident, signal.SIGUSR1)
        await heard.until(lambda: bool(heard.numbers))
    done.set()
    other.join()


@pytest.mark.parametrize("deaths", [1000, 70_000])
async def test_a_sigterm_behind_a_thousand_sigchlds_in_one_turn_of_the_loop_is_heard(
    deaths: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """The pipe has room for 65,536."""
    heard = Heard()
    asyncio.get_running_loop().set_debug(False)  # which keeps a traceback of every callback
    with signal_door(heard.callbacks(signal.SIGCHLD, signal.SIGTERM)):
        for _ in range(deaths):
            os.kill(os.getpid(), signal.SIGCHLD)
        os.kill(os.getpid(), signal.SIGTERM)
        await heard.until(lambda: signal.SIGTERM in heard.numbers)
    assert Counter(heard.numbers)[signal.SIGTERM] == 1
    assert signal.SIGCHLD in heard.numbers
    assert capfd.readouterr().err == ""


async def test_a_closed_door_leaves_everything_as_it_was() -> None:
    calls: list[int] = []
    previous = {
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, lambda number, _: calls.append(number)),
        signal.SIGUSR2: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
    try:
        handlers = {number: signal.getsignal(number) for number in _USUAL}
        descriptors = set(os.listdir("/proc/self/fd"))
        with signal_door(Heard().callbacks(*_USUAL)):
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        assert {number: signal.getsignal(number) for number in _USUAL} == handlers
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask | {signal.SIGWINCH}
        assert signal.set_wakeup_fd(-1) == -1
        assert set(os.listdir("/proc/self/fd")) == descriptors
        os.kill(os.getpid(), signal.SIGUSR1)
        assert calls == [signal.SIGUSR1]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in previous.items():
            signal.signal(number, handler)


async def test_a_signal_that_came_before_the_door_closed_is_answered() -> None:
    heard = Heard()
    with signal_door(heard.callbacks(signal.SIGTERM, signal.SIGUSR1)):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert heard.numbers == [signal.SIGTERM, signal.SIGUSR1]


async def test_a_signal_that_comes_again_before_it_is_answered_is_one_signal_and_afterwards_another() -> None:
    heard = Heard()
    with signal_door(heard.callbacks(signal.SIGTERM)):
        for times in (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            await heard.until(lambda times=times: len(heard.numbers) == times)  # type: ignore[misc]


async def test_a_signal_that_cannot_be_caught_leaves_none_installed() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(OSError, match="Invalid argument"):
        signal_door(Heard().callbacks(signal.SIGUSR1, signal.SIGKILL)).__enter__()
    assert signal.getsignal(signal.SIGUSR1) == before
    with signal_door({}):
        pass


async def test_outside_the_main_thread_the_door_says_where_it_belongs() -> None:
    async def elsewhere() -> None:
        with signal_door({}):
            pass

    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(asyncio.run, elsewhere())


async def test_a_second_door_is_refused_and_the_first_goes_on() -> None:
    heard = Heard()
    with signal_door(heard.callbacks(signal.SIGUSR1)):
        with pytest.raises(RuntimeError, match="one signal door at a time"):
            signal_door(Heard().callbacks(signal.SIGUSR1)).__enter__()
        os.kill(os.getpid(), signal.SIGUSR1)
        await heard.until(lambda: bool(heard.numbers))


# ---- before the door opens, and after it closed


def test_a_signal_that_comes_before_the_door_opens_is_heard_when_it_does_and_held_again_behind_it() -> None:
    done = run("""
import asyncio, os, signal
from supervisor.host.signals import hold, signal_door
hold({signal.SIGTERM, signal.SIGINT})
os.kill(os.getpid(), signal.SIGTERM)

async def main():
    heard = asyncio.Event()
    with signal_door({signal.SIGTERM: heard.set, signal.SIGINT: heard.set}):
        await asyncio.wait_for(heard.wait(), 10)

asyncio.run(main())
os.kill(os.getpid(), signal.SIGTERM)
print("still here", flush=True)
os._exit(7)
""")
    assert (done.returncode, done.stdout, done.stderr) == (7, "still here\n", "")


def test_holding_undoes_what_the_starter_blocked_and_ignored() -> None:
    done = run("""
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-c", '''
import signal, subprocess
from supervisor.host.signals import hold
assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
hold({signal.SIGTERM})
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGTERM}
print(subprocess.run(["sh", "-c", "exit 7"]).returncode)
'''])
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")


# ---- what children inherit

_OF_GLIBC = 0b11 << 31
"""Signals 32 and 33, glibc's own, which its posix_spawn (Popen's too, from 3.13 on) leaves ignored."""

_SPAWN = """
import asyncio, os, signal, subprocess, tempfile
from supervisor.host.signals import hold, signal_door

def look(how):
    if how == "Popen":
        return subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True).stdout
    with tempfile.TemporaryFile() as out:
        pid = os.posix_spawnp(
            "cat", ["cat", "/proc/self/status"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)],
            setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
        os.waitpid(pid, 0)
        out.seek(0)
        return out.read().decode()

def masks(status):
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return " ".join(str(int(fields[name], 16)) for name in ("SigBlk", "SigIgn", "SigCgt"))

async def main():
    with signal_door({signal.SIGTERM: print, signal.SIGINT: print, signal.SIGCHLD: lambda: None}):
        print("open", masks(look("Popen")))
        print("spawn", masks(look("posix_spawn")))
        with open("/proc/self/status") as status:
            print("daemon", masks(status.read()))

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
signal.signal(signal.SIGINT, signal.SIG_IGN)
hold({signal.SIGTERM})
print("held", masks(look("Popen")))
asyncio.run(main())
"""


def bits(*numbers: signal.Signals) -> int:
    return sum(1 << number - 1 for number in numbers)


def test_a_child_has_an_empty_mask_and_default_dispositions_once_the_door_is_open() -> None:
    done = run(_SPAWN)
    assert (done.returncode, done.stderr) == (0, "")
    lines = (line.split() for line in done.stdout.splitlines())
    seen = {line[0]: tuple(int(mask) for mask in line[1:]) for line in lines}
    for how in ("open", "spawn"):
        blocked, ignored, caught = seen[how]
        assert (blocked, ignored & ~_OF_GLIBC, caught) == (0, 0, 0)
    blocked, ignored, caught = seen["daemon"]
    assert blocked == 0
    assert ignored & bits(signal.SIGPIPE), "Python ignores it: a child started without restore_signals would, too"
    assert caught & bits(signal.SIGTERM, signal.SIGINT) == bits(signal.SIGTERM, signal.SIGINT)
    blocked, ignored, _ = seen["held"]
    assert blocked == bits(signal.SIGTERM), "the reason to start no child before the door is open"
    assert ignored & ~_OF_GLIBC == bits(signal.SIGINT), "an ignored signal stays ignored in children until it is caught"


def test_a_rain_of_sigterms_on_an_opening_and_closing_door_neither_kills_nor_stalls() -> None:
    """As fast as another process can send them, from ``hold`` to the end, which comes of its own accord."""
    script = """
import asyncio, os, signal
from supervisor.host.signals import hold, signal_door
hold({signal.SIGTERM})
print("held", flush=True)
heard = 0

def note():
    global heard
    heard += 1

async def main():
    for _ in range(300):
        with signal_door({signal.SIGTERM: note}):
            await asyncio.sleep(0)

asyncio.run(main())
print("heard" if heard else "deaf", flush=True)
os._exit(0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with contextlib.suppress(ProcessLookupError):
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "heard\n"
    assert process.returncode == 0
