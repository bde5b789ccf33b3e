"""Workers that try to get away: none does, and "stopped" is said only when nothing is left.

One bomb runs as a user of its own, whose processes the kernel counts (RLIMIT_NPROC, setrlimit(2)), which needs root;
the other one counts itself. In the environment ``SEED=n`` replays the moments of a run, ``CROWD=n`` is the number of
orphans (2,000) and ``MOMENTS=n`` that of stops under fire (6).
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.end_to_end.configs import group, ladder, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import Rankd, until

pytestmark = pytest.mark.end_to_end

CROWD = int(os.environ.get("CROWD", "2000"))
MOMENTS = int(os.environ.get("MOMENTS", "6"))

# A shell that cannot fork ends, but for what is done by ``command eval``.
ENDLESS = """trap "" TERM; while :; do command eval 'sh -c "$BOMB" & setsid sh -c "$BOMB" &'; done"""
COUNTED = (
    'trap "" TERM; GENERATION=$((GENERATION + 1)); '
    '[ $GENERATION -lt 8 ] && { sh -c "$BOMB" & setsid sh -c "$BOMB" & }; while :; do wait; sleep 100; done'
)
LIGHT = ["/bin/sh", "-c", 'sh -c "$BOMB" & exec sleep 1000']

KEEPS_DAEMONISING = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"up\\n")
for _ in range(1000):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pause()
        os._exit(0)
    os.wait()
    time.sleep(0.001)
signal.pause()
"""

CRASHES_WITH_CHILDREN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
others = set()
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        environment = open(f"/proc/{pid}/environ", "rb").read().split(b"\\0")
        dead = open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] in "ZX"
    except OSError:
        continue
    if not dead and b"RANKD_STATE_DIR=" + os.environb[b"RANKD_STATE_DIR"] in environment:
        others.update(word for word in environment if word.startswith(b"RANKD_ATTEMPT="))
others.discard(b"RANKD_ATTEMPT=" + os.environb[b"RANKD_ATTEMPT"])
os.write(1, b"attempt %s sees %d other\\n" % (os.environb[b"RANKD_ATTEMPT"], len(others)))
for apart in range(6):
    if os.fork() == 0:
        if apart % 2:
            os.setsid()
        if os.fork() == 0:
            signal.pause()
        if apart % 3:
            signal.pause()
        os._exit(0)
os.kill(os.getpid(), signal.SIGSEGV)
"""

ORPHANS = """
import os, signal, sys
for _ in range(int(sys.argv[1]) // 100):
    if os.fork() == 0:
        for one in range(100):
            if os.fork() == 0:
                if one % 2:
                    os.setsid()
                os._exit(0)
        os._exit(0)
    os.wait()
os.write(1, b"up\\n")
signal.pause()
"""


def seeded() -> random.Random:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6)))
    print("SEED =", seed)
    return random.Random(seed)


def alive(daemon: Rankd) -> list[str]:
    """What lives of that run's workers, by the variable that all have inherited and by state."""
    mark = f"RANKD_STATE_DIR={daemon.directory}/state\0".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            ours = mark in Path(f"/proc/{pid}/environ").read_bytes()
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if ours and stat.rpartition(") ")[2][0] not in "ZX":
            found.append(stat[:60])
    return found


def children(pid: int) -> list[int]:
    """Zombies included (proc_pid_children(5))."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def stopped(daemon: Rankd, within: float) -> None:
    """Stop it: nothing is alive when "stopped" is said, and that is said in time."""
    asked_at = time.monotonic()
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("group.stopped", timeout=60)
    took_for = time.monotonic() - asked_at
    left = alive(daemon)
    print(f"stopped after {took_for:.2f} s")
    assert not left, f"{len(left)} alive after it was said that there are none: {left[:10]}"
    assert not daemon.all("worker.unkillable")
    assert took_for < within
    assert daemon.wait() == 0


@pytest.mark.parametrize("kind", ["endless", "counted"])
def test_a_fork_bomb_does_not_outrun_the_stop(rankd: Start, kind: str) -> None:
    chance = seeded()
    keys: dict[str, object] = {"env": {"BOMB": COUNTED, "GENERATION": "0"}}
    if kind == "endless":
        if os.geteuid() != 0:
            pytest.skip("needs root for a user of the bomb's own: run the tests as root")
        account = 200_000 + os.getpid()
        keys = {"env": {"BOMB": ENDLESS}, "user": account, "group": account, "cwd": "/"}
        keys["resources"] = {"rlimits": {"nproc": 200}}
    config = group("job", LIGHT, stop=ladder("300ms", "20s"), **keys)  # a bomb takes a busy machine from us as well
    daemon = rankd(config, console=False)
    until(lambda: len(alive(daemon)) > chance.randrange(2, 190), "bomb going off")
    stopped(daemon, within=0.3 + 20 + 1)


def test_a_worker_that_daemonises_all_the_time_is_stopped_whole_at_any_moment(rankd: Start) -> None:
    chance = seeded()
    for _ in range(MOMENTS):
        daemon = rankd(group("job", python(KEEPS_DAEMONISING), workers=2, stop=ladder("200ms")))
        daemon.wait_for_line("up", count=2)
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(chance.uniform(0, 0.4))
        stopped(daemon, within=0.2 + 5 + 1)


def test_children_of_a_crashed_worker_are_gone_before_the_next_attempt_begins(rankd: Start) -> None:
    restart = {"max_restarts": 3, "backoff": {"initial": "0s"}}
    config = group("job", python(CRASHES_WITH_CHILDREN), workers=2, restart=restart, stop=ladder("200ms"))
    daemon = rankd(config)
    assert daemon.wait() == 128 + signal.SIGSEGV
    for attempt in range(4):
        assert len([line for line in daemon.console if f"attempt {attempt} sees 0 other" in line]) >= 1
    assert not [line for line in daemon.console if "sees" in line and "sees 0" not in line]
    assert not alive(daemon)


def test_orphans_by_the_thousand_leave_neither_zombie_nor_descriptor(rankd: Start) -> None:
    daemon = rankd(group("job", python(ORPHANS, str(CROWD)), workers=2))
    daemon.wait_for("daemon.ready")
    pid = daemon.process.pid
    workers = {record["pid"] for record in daemon.all("worker.started")}
    before = fds(pid)
    daemon.wait_for_line("up", count=2)
    until(lambda: len(set(children(pid)) - workers) == 1, "end of all children but the workers and the guardian")
    until(lambda: fds(pid) <= before, "end of the descriptors that were in use at that moment")
    # one that is seen in the midst of exit(2) is not dead yet, and shows no environment any more
    assert len(daemon.all("worker.orphan_killed")) < CROWD / 100
    assert daemon.stop() == 0


@pytest.mark.parametrize("seconds", ["0", "1"], ids=["dead by then", "alive"])
def test_a_child_that_was_ours_before_exec_is_reaped(rankd: Start, seconds: str) -> None:
    """``sh -c 'something & exec rankd run'``: what the shell has started is our child, and nobody else's."""
    daemon = rankd(
        group("job", ["/bin/sleep", "1000"]), through=["/bin/sh", "-c", f'sleep {seconds} & exec "$@"', "sh"]
    )
    daemon.wait_for("daemon.ready")
    pid = daemon.process.pid
    worker = daemon.wait_for("worker.started")["pid"]
    until(lambda: len(set(children(pid)) - {worker}) == 1, "end of all children but the worker and the guardian")
    assert not daemon.all("worker.orphan_killed")
    assert daemon.stop() == 0


WALKS = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)  # as long as one of the family lives
if os.fork() == 0:
    os.setsid()
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at:
        if os.fork():
            os._exit(0)
        os.setsid()
"""


def test_what_ends_and_leaves_a_child_all_the_time_is_not_taken_for_gone(rankd: Start, tmp_path: Path) -> None:
    """A process that is gone before anybody can look at it, and whose child takes its place."""
    held = tmp_path / "held"
    daemon = rankd(group("job", python(WALKS, str(held)), stop=ladder("200ms")))
    daemon.wait(60)
    with held.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert daemon.all("worker.unkillable"), daemon.story()
