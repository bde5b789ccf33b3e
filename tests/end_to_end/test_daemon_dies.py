"""A daemon that dies without a word takes its workers along; what is left even so, the next one finds and ends."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.host.proc import read_process
from tests.end_to_end.configs import SLEEP, group, ladder, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import ROOT, Rankd, until

pytestmark = pytest.mark.end_to_end

AT_MOST = 3.0
"""Seconds from the daemon's death to the last of its workers gone: one on a quiet host, and tests run beside others."""

KILLS = int(os.environ.get("KILLS", "100"))
"""Daemons that the slow test kills, each at a moment of its own."""

AT_ONCE = {"max_restarts": -1, "backoff": {"initial": "0s"}}
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\nwhile True: signal.pause()"
FAMILY = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b"grandchild %d\\n" % os.getpid())  # print() writes a line in pieces, and the pipe has two writers
        signal.pause()
    os._exit(0)
os.wait()
if os.fork() == 0:
    signal.pause()
os.write(1, b"up\\n")
signal.pause()
"""


def with_variable(*variables: str) -> dict[int, str]:
    """The living processes with one of these in their environment: their names by pid."""
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        process = read_process(pid)
        ours = any(f"{variable}\0".encode() in environment for variable in variables)
        if ours and process is not None and not process.dead:
            found[pid] = process.name
    return found


def of(daemon: Rankd) -> dict[int, str]:
    """Every living process of that run, the daemon itself left out."""
    state = f"{daemon.directory}/state"
    found = with_variable(f"STATE_DIRECTORY={state}", f"RANKD_STATE_DIR={state}")
    found.pop(daemon.process.pid, None)
    return found


def guardian_of(daemon: Rankd) -> int:
    def found() -> int | None:
        return next((pid for pid, name in of(daemon).items() if name == "guardian"), None)

    return until(found, "guardian")


def kill(daemon: Rankd) -> float:
    """SIGKILL it; returns the seconds until nothing of it is left, its guardian included."""
    watched = []
    for pid in of(daemon):
        try:
            watched.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    killed_at = time.monotonic()
    daemon.process.kill()
    for pidfd in watched:
        select.select([pidfd], [], [], 10)
        os.close(pidfd)
    until(lambda: not of(daemon), f"end of {of(daemon)}")
    took_for = time.monotonic() - killed_at
    daemon.process.wait()
    daemon.junk.clear()  # it may have been killed in the midst of a line
    return took_for


# ---- in the foreground


def test_workers_and_grandchildren_die_with_the_daemon(rankd: Start) -> None:
    daemon = rankd(group("job", python(FAMILY), workers=3))
    daemon.wait_for_line("up", count=3)
    assert len(of(daemon)) == 3 * 3 + 1
    assert kill(daemon) < AT_MOST
    daemon.wait_for_line("processes of its workers killed: ")  # but those that end when they have lost a parent


def test_workers_that_are_being_started_die_with_the_daemon(rankd: Start) -> None:
    chance = seeded()
    for at in (1, chance.randrange(2, 50), chance.randrange(50, 100)):
        daemon = rankd(group("job", SLEEP, workers=100))
        daemon.wait_for("worker.started", count=at)
        assert kill(daemon) < AT_MOST


def test_workers_that_are_being_stopped_die_with_the_daemon(rankd: Start) -> None:
    daemon = rankd(group("job", python(STUBBORN), workers=10, stop=ladder("10m")))
    daemon.wait_for_line("up", count=10)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("group.stopping")
    assert kill(daemon) < AT_MOST


def test_workers_that_are_restarting_die_with_the_daemon(rankd: Start) -> None:
    script = "import os, signal, sys\nif os.environ['RANK'] == '0': sys.exit(1)\nsignal.pause()"
    daemon = rankd(group("job", python(script), workers=10, restart=AT_ONCE))
    daemon.wait_for("group.restarting", count=seeded().randrange(1, 5))
    assert kill(daemon) < AT_MOST


def test_a_stopped_worker_dies_with_the_daemon(rankd: Start) -> None:
    daemon = rankd(group("job", python("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")))
    pid = daemon.wait_for("worker.started")["pid"]
    until(lambda: (process := read_process(pid)) and process.state == "T", "worker in state T")
    assert kill(daemon) < AT_MOST


def test_a_daemon_within_a_worker_dies_with_the_outer_one_and_its_workers_too(rankd: Start, tmp_path: Path) -> None:
    inner = tmp_path / "inner.toml"
    inner.write_text(group("inner", python(FAMILY), workers=2) + "\n[health]\nlisten = []\n")
    script = (
        f"export STATE_DIRECTORY={tmp_path}/inner RUNTIME_DIRECTORY={tmp_path}/inner-run OUTER_OF={tmp_path}; "
        f"exec {sys.executable} -m supervisor run {inner}"
    )
    outer = rankd(group("outer", ["/bin/sh", "-c", script]))
    outer.wait_for_line("]:up", count=2)
    assert len(with_variable(f"OUTER_OF={tmp_path}")) == 1 + 1 + 2 * 3, "the inner daemon, its guardian, its workers"
    killed_at = time.monotonic()
    kill(outer)
    until(lambda: not with_variable(f"OUTER_OF={tmp_path}"), "end of the inner daemon")
    assert time.monotonic() - killed_at < 2 * AT_MOST


def test_a_daemon_within_a_worker_that_dies_alone_takes_its_own_workers_along(rankd: Start) -> None:
    daemon = rankd(group("job", python(FAMILY), workers=3), env={"RANKD_TREE": "0123456789ab.1"})
    daemon.wait_for_line("up", count=3)
    assert kill(daemon) < AT_MOST
    daemon.wait_for_line("processes of its workers killed: ")  # but those that end when they have lost a parent


BROKEN = """
import sys
if "run" in sys.argv:
    import supervisor.runtime as runtime
    advance = runtime.advance

    def broken(state, arrival, now):
        if "WorkerExited" in repr(arrival):
            raise AssertionError("a bug")
        return advance(state, arrival, now)

    runtime.advance = broken
"""


def test_a_bug_in_the_daemon_itself_leaves_no_process(rankd: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    config = group("family", python(FAMILY), workers=3) + group("exits", SLEEP)
    daemon = rankd(config, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    daemon.wait_for_line("up", count=3)
    os.kill(daemon.wait_for("worker.started", group="exits")["pid"], signal.SIGKILL)
    assert daemon.wait() == 70
    assert not of(daemon)


def test_a_guardian_that_dies_is_followed_by_another(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=3))
    daemon.wait_for("daemon.ready")
    first = guardian_of(daemon)
    os.kill(first, signal.SIGKILL)
    record = daemon.wait_for("daemon.guardian_lost")
    assert (record["level"], record["reason"], record["over"]) == ("warning", "it was killed by signal 9", False)
    until(lambda: guardian_of(daemon) != first, "second guardian")
    assert not daemon.all("worker.orphan_killed"), "it is nobody's orphan"
    assert kill(daemon) < AT_MOST


def test_a_guardian_is_no_child_that_anybody_hears_of(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2, stop=ladder("5s")))
    daemon.wait_for("daemon.ready")
    guardian = guardian_of(daemon)
    os.kill(guardian, signal.SIGTERM)
    assert daemon.stop() == 0
    assert read_process(guardian) is None
    assert not daemon.all("worker.orphan_killed")
    assert not daemon.console
    assert not (daemon.directory / "state/state.json").exists()


def test_the_main_process_of_a_systemd_service_has_no_guardian(rankd: Start) -> None:
    through = ["/bin/sh", "-c", 'SYSTEMD_EXEC_PID=$$ INVOCATION_ID=0123 exec "$@"', "sh"]
    daemon = rankd(group("job", SLEEP, workers=2), through=through)
    daemon.wait_for("daemon.ready")
    assert len(of(daemon)) == 2


# ---- the next start


@pytest.fixture
def again(rankd: Start) -> Callable[..., Rankd]:
    """``again(daemon, config)``: another daemon in the state directory of that one."""

    def start(daemon: Rankd, config: str) -> Rankd:
        return rankd(config, env={"STATE_DIRECTORY": str(daemon.directory / "state")})

    return start


def test_what_outlived_daemon_and_guardian_is_ended_by_the_next_start(rankd: Start, again: Start) -> None:
    first = rankd(group("job", python(FAMILY), workers=3))
    first.wait_for_line("up", count=3)
    guardian = guardian_of(first)
    left = of(first).keys() - {guardian}
    first.process.send_signal(signal.SIGSTOP)  # or it may have another guardian
    os.kill(guardian, signal.SIGKILL)
    first.process.kill()
    first.process.wait()
    first.junk.clear()
    until(lambda: guardian not in of(first), "the guardian's end")  # not ours to wait for
    assert of(first).keys() == left
    assert len(left) == 9
    second = again(first, group("job", SLEEP, workers=1))
    record = second.wait_for("worker.orphan_killed")
    assert record["seq"] < second.wait_for("worker.started")["seq"]
    assert {int(process.split()[0]) for process in record["processes"]} == left
    assert (record["signal"], record["count"], record["error"]) == ("SIGKILL", 9, "")
    assert f"pid {first.process.pid}" in record["message"]
    assert not of(first).keys() & left
    assert second.stop() == 0


def test_a_daemon_that_was_killed_and_left_nothing_is_not_mentioned(rankd: Start, again: Start) -> None:
    first = rankd(group("job", SLEEP, workers=3))
    first.wait_for("group.ready")
    kill(first)
    assert (first.directory / "state/state.json").exists()
    second = again(first, group("job", SLEEP, workers=1))
    second.wait_for("group.ready")
    assert second.stop() == 0
    assert not second.all("worker.orphan_killed")
    assert not second.all("daemon.state_refused")


def test_a_second_daemon_in_the_same_directory_is_refused(rankd: Start, again: Start) -> None:
    first = rankd(group("job", SLEEP, workers=2))
    first.wait_for("group.ready")
    second = again(first, group("job", SLEEP, workers=2))
    assert second.wait() == 69
    assert f"in use by another rankd (pid {first.process.pid} on " in second.console[-1]
    assert not second.records
    assert first.process.poll() is None
    assert len(of(first)) == 3
    assert first.stop() == 0
    third = again(first, group("job", SLEEP))
    third.wait_for("group.ready")
    assert third.stop() == 0


def test_a_second_daemon_where_nobody_named_a_directory_does_without_a_state(rankd: Start, tmp_path: Path) -> None:
    """Two jobs of one user: each runs, only the first is known to the next start, and a guardian watches over both."""
    unnamed = {"STATE_DIRECTORY": "", "XDG_STATE_HOME": str(tmp_path)}
    first = rankd(group("job", SLEEP, workers=2), env=unnamed)
    first.wait_for("group.ready")
    path = tmp_path / "rankd/state.json"
    written = path.read_bytes
    until(lambda: len(json.loads(written())["workers"]) == 2, "state of the first")
    before = written()
    second = rankd(group("job", SLEEP, workers=2), env=unnamed)
    second.wait_for("group.ready")
    record = second.wait_for("daemon.state_unwritten")
    assert (record["level"], record["over"]) == ("warning", False)
    assert f"in use by another rankd (pid {first.process.pid} on " in record["reason"]
    workers = [record["pid"] for record in second.all("worker.started")]
    second.process.kill()
    second.process.wait()
    until(lambda: not any((process := read_process(pid)) and not process.dead for pid in workers), "end of its workers")
    second.junk.clear()
    third = rankd(group("job", SLEEP), env=unnamed)
    third.wait_for("group.ready")
    assert third.stop() == 0
    assert written() == before, "the state of the first is nobody else's to write or to remove"
    assert first.stop() == 0
    assert not first.all("worker.exited", by="outside")


def test_a_process_with_a_number_that_was_recorded_and_another_start_is_left_alone(rankd: Start, again: Start) -> None:
    first = rankd(group("job", SLEEP, workers=2))
    first.wait_for("group.ready")
    path = first.directory / "state/state.json"
    written = until(lambda: state if len((state := json.loads(path.read_bytes()))["workers"]) == 2 else None, "state")
    kill(first)
    with subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True) as stranger:
        process = read_process(stranger.pid)
        assert process
        worker = written["workers"][0] | {"pid": stranger.pid, "started": process.started}
        for changed in (
            {"workers": [worker | {"started": process.started - 1}]},
            {"workers": [worker], "boot_id": "0" * 36},
            {"daemon": written["daemon"] | {"pid": stranger.pid, "started": process.started - 1}},
        ):
            path.write_text(json.dumps(written | changed))
            daemon = again(first, group("job", SLEEP))
            daemon.wait_for("group.ready")
            assert daemon.stop() == 0
            assert not daemon.all("worker.orphan_killed")
            assert not daemon.all("daemon.state_refused")
            assert stranger.poll() is None
        stranger.kill()


def test_a_state_that_is_damaged_is_told_once_and_set_aside(rankd: Start, again: Start) -> None:
    first = rankd(group("job", SLEEP))
    first.wait_for("group.ready")
    kill(first)
    path = first.directory / "state/state.json"
    path.write_bytes(path.read_bytes()[:-5])
    second = again(first, group("job", SLEEP))
    second.wait_for("group.ready")
    (record,) = second.all("daemon.state_refused")
    assert record["error"] == f"{path}.refused"
    assert second.stop() == 0
    assert Path(f"{path}.refused").exists()
    third = again(first, group("job", SLEEP))
    third.wait_for("group.ready")
    assert third.stop() == 0
    assert not third.all("daemon.state_refused")


def test_a_disk_that_takes_no_state_stops_nothing(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2))
    daemon.wait_for("group.ready")
    (daemon.directory / "state/state.json.new").mkdir()
    os.kill(daemon.wait_for("worker.started")["pid"], signal.SIGKILL)
    record = daemon.wait_for("daemon.state_unwritten")
    assert (record["level"], record["over"]) == ("warning", False)
    daemon.wait_for("group.ready", count=2)
    (daemon.directory / "state/state.json.new").rmdir()
    daemon.wait_for("daemon.state_unwritten", over=True)
    assert len(daemon.all("daemon.state_unwritten")) == 2
    assert kill(daemon) < AT_MOST


# ---- at any moment


def seeded() -> random.Random:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6)))
    print("SEED =", seed)
    return random.Random(seed)


def many_kills(rankd: Start, count: int) -> None:
    """Each daemon is killed at another moment of a life that is all starting, failing, restarting and stopping."""
    chance = seeded()
    config = (
        group("family", python(FAMILY), workers=3, stop=ladder("200ms"))
        + group("crash", python("import os, sys, time; time.sleep(0.05); sys.exit(int(os.environ['RANK']) % 2)"),
                workers=4, restart=AT_ONCE, stop=ladder("200ms"))
        + group("many", SLEEP, workers=20)
    )  # fmt: skip
    slowest = 0.0
    for turn in range(count):
        daemon = rankd(config)
        moment = chance.choice(["early", "starting", "running", "stopping"])
        after = chance.uniform(0, 0.3)
        print(turn, moment, f"{after:.3f}")
        match moment:
            case "early":
                after *= 2
            case "starting":
                daemon.wait_for("worker.started", count=chance.randrange(1, 27))
            case "running":
                daemon.wait_for("group.ready", group="many")
            case "stopping":
                daemon.wait_for("group.ready", group="many")
                daemon.signal(signal.SIGTERM)
        try:
            daemon.process.wait(after)  # it may have stopped by then
        except subprocess.TimeoutExpired:
            slowest = max(slowest, kill(daemon))
        assert not of(daemon)
    print(f"slowest: {slowest:.3f} s")
    assert slowest < AT_MOST


def test_ten_daemons_killed_at_any_moment_leave_no_process(rankd: Start) -> None:
    many_kills(rankd, 10)


@pytest.mark.slow
@pytest.mark.timeout(60 + 6 * KILLS)
def test_a_hundred_daemons_killed_at_any_moment_leave_no_process(rankd: Start) -> None:
    many_kills(rankd, KILLS)
