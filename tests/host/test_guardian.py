"""The guardian outlives its daemon by a moment, takes the workers along, and is no trouble before."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.host import guardian as under_test
from supervisor.host.containment import MARK
from supervisor.host.guardian import TRIES, Guardian, is_needed
from supervisor.host.proc import read_process
from supervisor.host.process import seal_inherited_fds
from supervisor.host.state import Daemon, this_daemon
from tests.host.observing import link, open_fds, until

ROOT = Path(__file__).parents[2]


def read(path: str) -> str:
    return Path(path).read_text()


class Guarded:
    """This process as the daemon of a guardian."""

    def __init__(self, directory: Path) -> None:
        self.ward = this_daemon(os.urandom(6).hex())
        self.left_alone: list[int] = []
        self.lost: list[tuple[str, bool]] = []
        self.guardian = Guardian(
            self.ward,
            str(directory),
            asyncio.get_running_loop(),
            self.left_alone.append,
            lambda why, again: self.lost.append((why, again)),
        )

    @property
    def pid(self) -> int:
        return self.guardian.pid

    async def is_up(self) -> None:
        """It waits for our end from here on."""
        await until(lambda: read(f"/proc/{self.pid}/comm") == "guardian\n")
        await until(lambda: (found := read_process(self.pid)) and found.state == "S")

    def worker(self, script: str = "echo 1; read line") -> subprocess.Popen[str]:
        """One of our own, marked."""
        worker = subprocess.Popen(
            ["sh", "-c", script], env={"PATH": os.environ["PATH"], MARK: f"{self.ward.mark}.1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert worker.stdout
        worker.stdout.readline()
        return worker


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    seal_inherited_fds()  # as a daemon does
    guarded = Guarded(tmp_path)
    yield guarded
    guarded.guardian.close(in_order=True)


# ---- while the daemon lives


async def test_it_holds_nothing_but_the_pipe_and_its_own_and_waits_in_a_session_of_its_own(guarded: Guarded) -> None:
    await guarded.is_up()
    fds = {int(fd): os.readlink(f"/proc/{guarded.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{guarded.pid}/fd")}
    assert sorted(fds) == [0, 1, 2, 3]
    assert fds[0].startswith("pipe:")
    assert fds[1] == "/dev/null"
    assert fds[2] == link("2")
    assert fds[3] == "anon_inode:[pidfd]", "of its ward"
    process = read_process(guarded.pid)
    assert process
    assert (process.session, process.group, process.parent) == (guarded.pid, guarded.pid, os.getpid())
    assert os.readlink(f"/proc/{guarded.pid}/cwd") == "/"
    assert f"guardian\0of\0{os.getpid()}\0" in read(f"/proc/{guarded.pid}/cmdline")
    assert guarded.left_alone == [guarded.pid]


async def test_no_signal_ends_it_but_sigkill(guarded: Guarded) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        os.kill(guarded.pid, number)  # while it starts
    await guarded.is_up()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        os.kill(guarded.pid, number)
    await guarded.is_up()
    assert guarded.lost == []


async def test_it_never_wakes_up_and_takes_little_memory(guarded: Guarded) -> None:
    await guarded.is_up()

    def switches() -> list[str]:
        return [line for line in read(f"/proc/{guarded.pid}/status").splitlines() if "ctxt_switches" in line]

    before = switches()
    await asyncio.sleep(0.5)  # not for something to happen: a window in which nothing should
    assert switches() == before
    rollup = read(f"/proc/{guarded.pid}/smaps_rollup").splitlines()
    pss = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    assert pss < 12 * 1024, f"{pss} KiB"


# ---- in order


async def test_it_is_gone_at_once_when_all_is_in_order_and_touches_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    guarded = Guarded(tmp_path)
    with guarded.worker() as worker:
        await guarded.is_up()
        asked_at = time.monotonic()
        guarded.guardian.close(in_order=True)
        assert time.monotonic() - asked_at < 0.5
        assert guarded.pid == 0
        assert worker.poll() is None
        worker.kill()
    assert capfd.readouterr() == ("", "")


async def test_it_is_gone_at_once_before_it_is_up(tmp_path: Path) -> None:
    fds = open_fds()
    guarded = Guarded(tmp_path)
    with guarded.worker() as worker:
        guarded.guardian.close(in_order=True)
        assert worker.poll() is None
        worker.kill()
    assert open_fds() == fds


async def test_when_not_all_is_in_order_it_ends_what_is_left_before_close_returns(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    guarded = Guarded(tmp_path)
    with guarded.worker() as worker:
        guarded.guardian.close(in_order=False)
        assert worker.wait(0) == -signal.SIGKILL
    out, err = capfd.readouterr()
    assert err == f"rankd: the daemon (pid {os.getpid()}) has died; processes of its workers killed: 1\n"
    assert out == ""


async def test_one_that_hangs_is_killed(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    await guarded.is_up()
    monkeypatch.setattr(under_test, "_PATIENCE", 0.1)
    monkeypatch.setattr(under_test, "WITHIN", 0.1)
    os.kill(guarded.pid, signal.SIGSTOP)
    guarded.guardian.close(in_order=False)
    assert guarded.pid == 0


# ---- when the guardian dies


async def test_when_it_dies_that_is_told_and_there_is_another(guarded: Guarded) -> None:
    first = guarded.pid
    fds = len(open_fds())
    os.kill(first, signal.SIGKILL)
    await until(lambda: guarded.lost and guarded.pid)
    assert guarded.lost == [("it was killed by signal 9", True)]
    assert guarded.left_alone == [first, guarded.pid]
    assert first != guarded.pid
    assert len(open_fds()) == fds
    with guarded.worker() as worker:
        guarded.guardian.close(in_order=False)
        assert worker.wait(0) == -signal.SIGKILL


async def test_guardians_that_die_one_after_the_other_are_given_up(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_PAUSE", 0.0001)
    for count in range(TRIES + 1):
        os.kill(guarded.pid, signal.SIGKILL)
        await until(lambda: len(guarded.lost) == count + 1)  # noqa: B023 - awaited at once
        if count < TRIES:
            await until(lambda: guarded.pid)
    assert [again for _, again in guarded.lost] == [True] * TRIES + [False]
    assert guarded.pid == 0
    guarded.guardian.close(in_order=True)


async def test_an_old_one_may_be_followed_as_often_as_need_be(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "STEADY", 0.0)
    for count in range(TRIES + 3):
        os.kill(guarded.pid, signal.SIGKILL)
        await until(lambda: len(guarded.lost) == count + 1 and guarded.pid)  # noqa: B023 - awaited at once
    assert all(again for _, again in guarded.lost)


async def test_one_that_cannot_be_started_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fds = open_fds()
    monkeypatch.setattr(under_test, "_PAUSE", 0.0001)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "missing"))
        guarded = Guarded(tmp_path)
        assert guarded.lost == [("it cannot be started: No such file or directory", True)]
        assert open_fds() == fds
    await until(lambda: guarded.pid)
    guarded.guardian.close(in_order=True)
    assert open_fds() == fds


async def test_one_that_ends_by_itself_is_told_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(under_test, "_PROGRAM", "raise SystemExit(3)")
    guarded = Guarded(tmp_path)
    await until(lambda: guarded.lost)
    assert guarded.lost[0] == ("it exited with code 3", True)
    guarded.guardian.close(in_order=True)


# ---- when the daemon dies

DAEMON = """
import asyncio, os, subprocess, sys
from supervisor.host.containment import MARK
from supervisor.host.disk import Disk
from supervisor.host.guardian import Guardian
from supervisor.host.state import StateFile, this_daemon

async def main():
    us = this_daemon(sys.argv[2])
    loop = asyncio.get_running_loop()
    file = StateFile(sys.argv[1], us, "job-42", loop, print, Disk())
    guardian = Guardian(us, sys.argv[1], loop, print, print)
    env = {} if "unmarked" in sys.argv else {MARK: us.mark + ".1"}
    for rank in range(3):
        worker = subprocess.Popen(["/bin/sleep", "1000"], env=env, start_new_session=True, stdout=subprocess.DEVNULL)
        print(worker.pid, flush=True)
        file.started("job", rank, 0, worker.pid)
    while open(sys.argv[1] + "/state.json").read().count('"rank"') < 3:
        await asyncio.sleep(0.01)
    if "held" in sys.argv:
        ours = guardian._pipe
        child = subprocess.Popen(["/bin/sleep", "1000"], env={}, pass_fds=[ours], start_new_session=True)
        print(child.pid, flush=True)
    print("up", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["marked", "unmarked", "held"])
def test_workers_die_with_their_daemon(how: str, tmp_path: Path) -> None:
    """``unmarked``: known by the record alone; ``held``: somebody else holds the pipe, as a child does before exec."""
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(tmp_path), "0123456789ab", how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    ) as daemon:  # fmt: skip
        assert daemon.stdout
        assert daemon.stderr
        guardian, *pids = [int(line) for line in iter(daemon.stdout.readline, "up\n")]
        holder = pids.pop() if how == "held" else None
        pidfds = [os.pidfd_open(pid) for pid in (*pids, guardian)]
        killed_at = time.monotonic()
        daemon.kill()
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], 5)[0]
            os.close(pidfd)
        assert time.monotonic() - killed_at < 3  # one on a quiet host
        if holder is not None:
            process = read_process(holder)
            assert process
            assert not process.dead, "it is no worker"
            os.kill(holder, signal.SIGKILL)
        assert daemon.stderr.read().endswith("processes of its workers killed: 3\n")


def test_a_guardian_whose_ward_has_died_before_it_came_up_does_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ward's number may even be another's by then."""
    ward = Daemon(os.getpid(), this_daemon("").started - 1, os.getsid(0), os.urandom(6).hex())
    theirs, ours = os.pipe()
    os.close(ours)
    words = [under_test._ROOT, "guardian", "of", *map(str, ward), str(tmp_path), ""]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", under_test._PROGRAM, *words], stdin=theirs, timeout=45, check=True,
        capture_output=True,
    )  # fmt: skip
    os.close(theirs)
    assert (done.stdout, done.stderr) == (b"", b"")


# ---- where none is needed


@pytest.mark.parametrize(
    ("environ", "needed"),
    [
        ({}, True),
        ({"INVOCATION_ID": "a", "SYSTEMD_EXEC_PID": "4711"}, False),
        ({"INVOCATION_ID": "a", "SYSTEMD_EXEC_PID": "4710"}, True),
        ({"INVOCATION_ID": "a", "NOTIFY_SOCKET": "/run/x"}, True),
        ({"SYSTEMD_EXEC_PID": "4711"}, True),
    ],
)
def test_a_service_of_systemd_needs_none(environ: dict[str, str], needed: bool) -> None:
    assert is_needed(environ, 4711) == needed
