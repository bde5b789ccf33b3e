"""What a dead daemon left is found by record, mark, session and descent, and nothing else is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.host import leftovers, state
from supervisor.host.containment import MARK
from supervisor.host.leftovers import Earlier, Search, end, end_earlier
from supervisor.host.proc import Ended, Process, inherited, open_proved, processes, read_process, send
from supervisor.host.state import Daemon, Recorded, State, this_daemon
from tests.host.observing import open_fds

ME = os.getpid()
Lead = Callable[..., subprocess.Popen[str]]
Written = Callable[..., Path]


def known(pid: int) -> Process:
    process = read_process(pid)
    assert process is not None
    return process


def until(condition: Callable[[], object]) -> None:
    """For what tells nobody when it comes true, and takes microseconds."""
    give_up_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_at
        os.sched_yield()


def say(worker: subprocess.Popen[str]) -> int:
    """The next number that it prints."""
    assert worker.stdout
    return int(worker.stdout.readline())


@pytest.fixture
def ward() -> Daemon:
    """A daemon of this test alone, dead by now, and no older than the test."""
    with subprocess.Popen(["true"]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        gone = known(dead.pid)
    return Daemon(gone.pid, gone.started, gone.session, os.urandom(6).hex())


@pytest.fixture
def lead(ward: Daemon) -> Iterator[Lead]:
    """``lead(script)``: a worker of the ward in a session of its own, or without its ``mark``, or no such thing."""
    led: list[subprocess.Popen[str]] = []

    def start(script: str, *, mark: str = f"{ward.mark}.1", session: bool = True) -> subprocess.Popen[str]:
        env = {"PATH": os.environ["PATH"]} | ({MARK: mark} if mark else {})
        led.append(
            subprocess.Popen(
                ["sh", "-c", script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                start_new_session=session,
            )
        )  # fmt: skip
        return led[-1]

    yield start
    for worker in led:
        with worker:
            children = [process for process in processes(besides=()) if process.parent == worker.pid]
            worker.kill()
            for child in children:
                send(child, signal.SIGKILL)


@pytest.fixture
def others() -> Iterator[list[int]]:
    """Pids of what a test has started beside, to be ended after it if they are alive."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if read_process(pid) is not None:
            os.kill(pid, signal.SIGKILL)


def record(ward: Daemon, *workers: Recorded, at: int | None = None) -> State:
    return State(state.boot_id(), (0, 0), ward, "job-42", state.ticks() if at is None else at, workers)


def found(search: Search) -> set[int]:
    return {process.pid for process in search.look()}


# ---- what is ours


def test_a_worker_is_known_by_its_mark(lead: Lead, ward: Daemon) -> None:
    worker = lead("read line")
    until(lambda: inherited(worker.pid, MARK))
    assert found(Search(ward)) == {worker.pid}


def test_a_worker_of_a_daemon_within_is_ours_by_the_mark_of_the_outer(lead: Lead, ward: Daemon) -> None:
    worker = lead("read line", mark=f"aaaaaaaaaaaa.3/{ward.mark}.12/bbbbbbbbbbbb.4")
    until(lambda: inherited(worker.pid, MARK))
    assert found(Search(ward)) == {worker.pid}


@pytest.mark.parametrize("mark", ["", "aaaaaaaaaaaa.1", "x{0}.1", "{0}", "{0}a.1"])
def test_nobody_is_ours_by_another_mark(lead: Lead, ward: Daemon, mark: str) -> None:
    worker = lead("echo 1; read line", mark=mark.format(ward.mark))
    say(worker)
    assert found(Search(ward)) == set()


def test_a_double_forked_grandchild_is_known_by_its_mark(lead: Lead, ward: Daemon, others: list[int]) -> None:
    worker = lead("(setsid sleep 100 >&- & echo $!)")
    others.append(pid := say(worker))
    worker.wait()
    until(lambda: known(pid).session == pid)
    assert found(Search(ward)) == {pid}


def test_what_forgot_its_mark_is_known_by_its_session(lead: Lead, ward: Daemon, others: list[int]) -> None:
    worker = lead("(env -i sleep 100 >&- & echo $!); read line")
    others.append(pid := say(worker))
    until(lambda: known(pid).name == "sleep")
    assert not inherited(pid, MARK)
    until(lambda: found(Search(ward)) == {worker.pid, pid})  # the subshell between the two is on its way out


def test_what_forgot_its_mark_and_its_session_is_known_by_its_parent(
    lead: Lead, ward: Daemon, others: list[int]
) -> None:
    worker = lead("env -i setsid sh -c 'echo $$; sleep 100 & echo $!; wait' & read line")
    others += (pids := [say(worker), say(worker)])
    until(lambda: known(pids[1]).name == "sleep")
    assert known(pids[1]).session == pids[0]
    assert found(Search(ward)) == {worker.pid, *pids}


def test_a_worker_that_wrote_over_its_environment_is_known_by_the_record(lead: Lead, ward: Daemon) -> None:
    worker = lead("echo 1; read line", mark="")
    say(worker)
    recorded = Recorded("job", 0, 0, worker.pid, known(worker.pid).started)
    assert found(Search(ward, record(ward, recorded))) == {worker.pid}


def test_the_session_of_a_recorded_worker_is_ours_also_without_it(lead: Lead, ward: Daemon, others: list[int]) -> None:
    worker = lead("sleep 100 >&- & echo $!; read line", mark="")
    others.append(pid := say(worker))
    recorded = Recorded("job", 0, 0, worker.pid, known(worker.pid).started)
    started = known(pid).started
    worker.communicate("\n")
    assert known(pid).session == worker.pid
    assert found(Search(ward, record(ward, recorded, at=started))) == {pid}
    assert found(Search(ward, record(ward, recorded, at=started - 1))) == set(), "that could be another's session"


def test_what_was_found_once_stays_found(lead: Lead, ward: Daemon) -> None:
    worker = lead("read line; exec env -i sh -c 'echo 1; read line'")
    until(lambda: inherited(worker.pid, MARK))
    search = Search(ward)
    assert found(search) == {worker.pid}
    assert worker.stdin
    worker.stdin.write("\n")
    worker.stdin.flush()
    say(worker)
    assert found(Search(ward)) == set()
    assert found(search) == {worker.pid}


# ---- what is not


def test_a_number_that_was_given_anew_is_left_alone(lead: Lead, ward: Daemon, tmp_path: Path) -> None:
    stranger = lead("sleep 100 & echo $!; read line", mark="")
    child = say(stranger)
    recorded = Recorded("job", 0, 0, stranger.pid, known(stranger.pid).started - 1)
    assert end(Search(ward, record(ward, recorded, at=recorded.started))) == Ended()
    assert stranger.poll() is None
    assert not known(child).dead


def test_nobody_is_ours_who_is_older_than_the_daemon(lead: Lead, ward: Daemon) -> None:
    worker = lead("echo 1; read line")
    say(worker)
    later = ward._replace(started=known(worker.pid).started + 1)
    recorded = Recorded("job", 0, 0, worker.pid, known(worker.pid).started)
    assert found(Search(later, record(ward, recorded))) == set()


@pytest.mark.parametrize("whose", ["the daemon's", "our own"])
def test_nobody_is_ours_in_the_session_that_a_daemon_was_started_from(lead: Lead, ward: Daemon, whose: str) -> None:
    worker = lead("sleep 100 & echo $!; read line", session=whose != "our own")
    say(worker)
    until(lambda: inherited(worker.pid, MARK))
    if whose == "the daemon's":
        ward = ward._replace(session=worker.pid, started=known(worker.pid).started)
    assert found(Search(ward)) == set()


def test_a_session_with_the_number_of_the_daemons_that_is_younger_is_another(lead: Lead, ward: Daemon) -> None:
    worker = lead("echo 1; read line")
    say(worker)
    ward = ward._replace(session=worker.pid, started=known(worker.pid).started - 1)
    assert found(Search(ward)) == {worker.pid}


def test_a_shell_is_left_alone_in_which_somebody_works_with_a_copy_of_the_environment(lead: Lead, ward: Daemon) -> None:
    shell = lead(f"echo 1; {MARK}={ward.mark}.1 sh -c 'echo $$; read line; :'; read line", mark="")
    say(shell)
    copy = say(shell)
    assert found(Search(ward)) == {copy}


def test_a_process_that_is_hidden_from_us_is_passed_over(
    lead: Lead, ward: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other users' are where /proc is mounted with hidepid=1 (proc(5))."""
    seen, hidden = lead("echo 1; read line"), lead("echo 1; read line")
    say(seen)
    say(hidden)
    real = os.open

    def refusing(path: str, flags: int) -> int:
        if path.startswith(f"/proc/{hidden.pid}/"):
            raise PermissionError(1, "Operation not permitted")
        return real(path, flags)

    monkeypatch.setattr(os, "open", refusing)
    assert found(Search(ward)) == {seen.pid}


# ---- the end


def test_all_that_is_left_is_killed_and_named(lead: Lead, ward: Daemon, others: list[int]) -> None:
    worker = lead("trap '' TERM HUP; (setsid sleep 100 >&- & echo $!); sleep 100 & echo $!; kill -STOP $$")
    others += (pids := [say(worker), say(worker)])
    until(lambda: known(worker.pid).state == "T")
    until(lambda: known(pids[0]).session == pids[0])
    fds = open_fds()
    ended = end(Search(ward))
    assert {process.pid for process in ended.killed} == {worker.pid, *pids}
    assert ended.left == ()
    assert worker.wait() == -signal.SIGKILL
    assert open_fds() == fds


HOPPERS = """
import os, sys
for _ in range(4):
    if os.fork() == 0:
        hops = 0
        while hops < 3_000:
            hops += 1
            if os.fork():
                os._exit(0)
        os._exit(0)
print(1, flush=True)
sys.stdin.read()
"""


def test_processes_that_change_their_number_all_the_time_do_not_get_away(ward: Daemon) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", HOPPERS], env={MARK: f"{ward.mark}.1"}, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        say(worker)
        ended = end(Search(ward))
        assert ended.left == ()
        assert worker.wait() == -signal.SIGKILL
        assert not [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if (process := read_process(pid)) and process.session == worker.pid and not process.dead
        ]  # fmt: skip


def test_what_does_not_die_is_named_and_waited_for_no_longer_than_that(
    lead: Lead, ward: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = lead("echo 1; read line")
    say(worker)
    monkeypatch.setattr(leftovers, "_kill", lambda process, pidfd: None)  # as if it hung in a device
    fds = open_fds()
    began_at = time.monotonic()
    ended = end(Search(ward), within=0.3)
    assert 0.3 <= time.monotonic() - began_at < 2
    assert [process.pid for process in ended.left] == [worker.pid]
    assert open_fds() == fds


def test_descriptors_that_run_short_are_waited_for(lead: Lead, ward: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = lead("echo 1; read line")
    say(worker)
    few = 2

    def refused_twice(process: Process) -> int | None:
        nonlocal few
        if few:
            few -= 1
            raise OSError(24, "Too many open files")
        return open_proved(process)

    monkeypatch.setattr(leftovers, "open_proved", refused_twice)
    assert len(end(Search(ward)).killed) == 1
    assert worker.wait() == -signal.SIGKILL


# ---- the next daemon


@pytest.fixture
def written(ward: Daemon, tmp_path: Path) -> Written:
    """``written(worker)``: the directory of a daemon that was killed while that worker ran, as ``changed``."""

    def write(*workers: subprocess.Popen[str], **changed: object) -> Path:
        listed = [
            {"group": "job", "rank": rank, "attempt": 0, "pid": worker.pid, "started": known(worker.pid).started}
            for rank, worker in enumerate(workers)
        ]
        about = tmp_path.stat()
        file = tmp_path / "state.json"
        content = {
            "version": 1, "boot_id": state.boot_id(), "directory": [about.st_dev, about.st_ino], "run_id": "job-42",
            "daemon": ward._asdict(), "written_at": state.ticks(), "workers": listed,
        }  # fmt: skip
        file.write_text(json.dumps(content | changed))
        file.chmod(0o600)
        return tmp_path

    return write


def test_an_earlier_daemon_left_nothing_when_there_is_no_record(tmp_path: Path) -> None:
    assert end_earlier(str(tmp_path)) == Earlier()


def test_what_an_earlier_daemon_left_is_ended(lead: Lead, ward: Daemon, written: Written) -> None:
    unmarked, marked = lead("echo 1; read line", mark=""), lead("echo 1; read line")
    say(unmarked)
    say(marked)
    earlier = end_earlier(str(written(unmarked)))
    assert earlier.pid == ward.pid
    assert {process.pid for process in earlier.ended.killed} == {unmarked.pid, marked.pid}
    assert (unmarked.wait(), marked.wait()) == (-9, -9)


def test_nothing_is_signalled_after_another_boot(lead: Lead, written: Written) -> None:
    worker = lead("echo 1; read line")
    say(worker)
    assert end_earlier(str(written(worker, boot_id="0" * 36))) == Earlier()
    assert worker.poll() is None


def test_a_daemon_that_lost_its_lock_is_ended_as_well(lead: Lead, ward: Daemon, written: Written) -> None:
    """As one whose directory was removed and made again under it."""
    daemon = lead("echo 1; read line", mark="")
    say(daemon)
    process = known(daemon.pid)
    us = ward._replace(pid=process.pid, started=process.started, session=process.session)
    assert end_earlier(str(written(daemon=us._replace(started=us.started - 1)._asdict()))).pid == us.pid
    assert daemon.poll() is None, "that was another with its number"
    end_earlier(str(written(daemon=us._asdict())))
    assert daemon.wait() == -signal.SIGKILL


def test_a_daemon_that_has_replaced_its_program_does_not_end_itself(written: Written) -> None:
    assert end_earlier(str(written(daemon=this_daemon("0123456789ab")._asdict()))).ended == Ended()


def test_a_record_that_is_not_believed_is_set_aside_and_ends_nobody(lead: Lead, written: Written) -> None:
    worker = lead("echo 1; read line", mark="")
    say(worker)
    directory = written(worker, run_id=7)
    earlier = end_earlier(str(directory))
    assert earlier.refused == "a text is none, or not of its form"
    assert earlier.aside == str(directory / "state.json.refused")
    assert os.listdir(directory) == ["state.json.refused"]
    assert worker.poll() is None
    assert end_earlier(str(directory)) == Earlier()


def test_a_record_that_can_be_neither_read_nor_moved_is_no_reason_to_end(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    (tmp_path / "state.json.refused").write_bytes(b"")
    earlier = end_earlier(str(tmp_path))
    assert earlier.refused == "it is not a file"
    assert earlier.aside == "where it was: Not a directory"
