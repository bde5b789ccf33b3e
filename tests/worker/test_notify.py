"""The worker's side of the watchdog: heard by the real doors, silent without them, and never in the worker's way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.core.messages import Worker
from supervisor.core.timers import TimerRequest
from supervisor.core.watchdog import HEARTBEAT, Notice
from supervisor.host.notify import NotifySocket
from supervisor.host.timer_pipe import TimerPipe
from supervisor.worker import notify
from tests.host.observing import open_fds

ME = Worker(0, 0)


class Supervisor:
    """Both doors of a group, and what has come through them."""

    def __init__(self, directory: Path) -> None:
        self.heard: list[Notice] = []
        self.timers: list[TimerRequest] = []
        self.senders: list[int] = []
        self.socket = NotifySocket(str(directory / "notify"), self._owner, lambda _, notice: self.heard.append(notice))
        self.pipe = TimerPipe(str(directory / "timers"), self.timers.extend)

    def _owner(self, pid: int) -> Worker:
        self.senders.append(pid)
        return ME

    def hears(self) -> list[Notice]:
        self.socket.drain()
        heard, self.heard = self.heard, []
        return heard

    def fill(self) -> int:
        """Say so much that no further word is taken; how many words that were."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
            for count in range(100_000):
                try:
                    other.sendto(b"WATCHDOG=1", self.socket.address)
                except BlockingIOError:
                    return count
        raise AssertionError("a socket without bounds")


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", made.socket.address)
    monkeypatch.setenv("TORCHELASTIC_TIMER_FILE", made.pipe.path)
    yield made
    made.socket.close()
    made.pipe.close()
    notify._door.forget()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("TORCHELASTIC_TIMER_FILE", raising=False)


def test_every_word_is_understood_by_the_door(supervisor: Supervisor) -> None:
    assert notify.ready()
    assert notify.ready("up\nand \x1b[1m\0running \ud800")
    assert notify.heartbeat()
    assert notify.status("epoch 1")
    assert notify.progress(17)
    assert notify.stopping()
    assert supervisor.hears() == [
        Notice(ready=True),
        Notice(ready=True, status="up and  [1m running  "),
        HEARTBEAT,
        Notice(status="epoch 1"),
        Notice(progress=17),
        Notice(stopping=True),
    ]
    assert set(supervisor.senders) == {os.getpid()}


def test_a_section_ends_however_its_block_does(supervisor: Supervisor) -> None:
    with pytest.raises(KeyError), notify.section("outer"), notify.section("inner"):
        raise KeyError
    told = [section for notice in supervisor.hears() for section in notice.sections]
    assert told == [(True, "outer"), (True, "inner"), (False, "inner"), (False, "outer")]


def test_whoever_leaves_a_section_that_its_parent_began_does_not_end_it(supervisor: Supervisor) -> None:
    section = notify.section("step")
    section.__enter__()
    if not (pid := os.fork()):
        section.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(pid, 0)
    assert [section for notice in supervisor.hears() for section in notice.sections] == [(True, "step")]
    section.__exit__(None, None, None)


def test_a_name_or_status_of_any_length_is_cut_to_what_the_door_takes(supervisor: Supervisor) -> None:
    with notify.section("x" * 5000):
        notify.status("ü" * 5000)
    assert [notice.sections or notice.status for notice in supervisor.hears()] == [
        ((True, "x" * 200),),
        "ü" * 1000,
        ((False, "x" * 200),),
    ]


def test_timers_are_torchs_and_those_without_a_scope_are_told_apart_on_one_line_even(supervisor: Supervisor) -> None:
    with notify.expires(after=60), notify.expires(after=30, scope="step", signal=15), notify.expires(after=10):
        pass
    supervisor.pipe.drain()
    assert supervisor.pipe.lines.refused == 0
    set = [request for request in supervisor.timers if request.at is not None]
    released = [request for request in supervisor.timers if request.at is None]
    assert [request.signal for request in set] == [9, 15, 9]
    assert {request.pid for request in set} == {os.getpid()}
    scopes = [request.scope for request in set]
    assert scopes[1] == "step"
    assert scopes[0].startswith(f"{__file__}#")
    assert scopes[0] != scopes[2]
    assert [request.scope for request in released] == scopes[::-1]
    assert set[0].at == pytest.approx(time.monotonic() + 60, abs=20)


def test_a_timer_is_released_however_its_block_ends(supervisor: Supervisor) -> None:
    with pytest.raises(KeyError), notify.expires(after=60, scope="step"):
        raise KeyError
    supervisor.pipe.drain()
    assert [(request.scope, request.at is None) for request in supervisor.timers] == [("step", False), ("step", True)]


def test_a_scope_too_long_for_the_pipe_is_not_sent(supervisor: Supervisor) -> None:
    with notify.expires(60, "x" * 5000):
        supervisor.pipe.drain()
    assert (supervisor.timers, supervisor.pipe.lines.refused) == ([], 0)


def test_without_a_supervisor_nothing_happens(alone: None) -> None:
    before = open_fds()
    assert not any([notify.ready(), notify.heartbeat(), notify.status("x"), notify.progress(1), notify.stopping()])
    with notify.section("step"), notify.expires(1):
        pass
    assert open_fds() == before


def test_a_supervisor_that_has_died_is_no_trouble(supervisor: Supervisor) -> None:
    supervisor.socket.close()
    supervisor.pipe.close()
    assert not notify.heartbeat()
    with notify.section("step"), notify.expires(60):
        pass


def test_one_that_is_behind_is_waited_for_once_and_gets_what_it_must_not_miss_later(supervisor: Supervisor) -> None:
    supervisor.fill()
    began_at = time.monotonic()
    with notify.section("step"):
        assert time.monotonic() - began_at >= notify.PATIENCE * 0.9
        began_at = time.monotonic()
        for _ in range(50):
            assert not notify.heartbeat()
    assert time.monotonic() - began_at < 50 * notify.PATIENCE
    assert set(supervisor.hears()) == {HEARTBEAT}
    assert notify.status("on")
    told = [notice.sections or notice.status for notice in supervisor.hears()]
    assert told == [((True, "step"),), ((False, "step"),), "on"]


def test_one_that_comes_back_in_time_gets_the_word_at_once(supervisor: Supervisor) -> None:
    filled = supervisor.fill()
    reader = threading.Timer(notify.PATIENCE / 10, supervisor.socket.drain)
    reader.start()
    taken = notify.ready()
    reader.join()
    assert (taken or notify.heartbeat(), filled) == (True, filled)
    assert Notice(ready=True) in supervisor.heard + supervisor.hears()


def test_a_child_speaks_in_its_own_name_and_says_nothing_that_its_parent_owes(supervisor: Supervisor) -> None:
    notify.heartbeat()
    supervisor.hears()
    supervisor.fill()
    notify.ready()
    supervisor.hears()
    with notify.expires(60):
        pid = os.fork()
        if not pid:
            notify.heartbeat()
            os._exit(0)
        os.waitpid(pid, 0)
    supervisor.senders.clear()
    assert supervisor.hears() == [HEARTBEAT]
    assert supervisor.senders == [pid]
    assert notify.status("paid")
    assert supervisor.hears() == [Notice(ready=True), Notice(status="paid")]


def test_whoever_closes_all_descriptors_loses_a_word_and_no_file_of_its_own(supervisor: Supervisor) -> None:
    notify.heartbeat()
    assert notify._door._socket is not None
    number = notify._door._socket.fileno()
    with open(os.devnull, "rb") as mine:
        os.dup2(mine.fileno(), number)
        assert not notify.heartbeat()
        os.fstat(number)
        assert notify.heartbeat()
        os.close(number)
    assert supervisor.hears() == [HEARTBEAT, HEARTBEAT]


def test_it_imports_nothing_but_the_standard_library_and_starts_no_thread(supervisor: Supervisor) -> None:
    program = (
        "import sys, threading; from supervisor.worker import notify; notify.heartbeat();"
        "ours = {name for name in sys.modules if name.startswith('supervisor')};"
        "others = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names);"
        "print(sorted(ours), sorted(name for name in others - {'supervisor'} if not name.startswith('_')),"
        "threading.active_count())"
    )
    told = subprocess.check_output([sys.executable, "-S", "-c", program], text=True, cwd=Path(__file__).parents[2])
    ours = ["supervisor", "supervisor.worker", "supervisor.worker.notify", "supervisor.worker.recording"]
    assert told == f"{ours} [] 1\n"
