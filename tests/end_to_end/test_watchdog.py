"""Workers that hang: they are found out by what they do not say, ended, and their group goes on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.sparing import MOST
from tests.end_to_end.configs import group, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.launching import launch
from tests.end_to_end.rankd import ROOT, Rankd, until
from tests.host.held import HOLD, held_for, let_go

pytestmark = pytest.mark.end_to_end

PREAMBLE = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from supervisor.worker import expires, heartbeat, progress, ready, section, status, stopping
first = os.environ["RANKD_ATTEMPT"] == "0"
rank = os.environ["RANK"]
"""

HANG = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()\n"
AT_ONCE = {"ladder": [{"signal": "SIGKILL", "wait": "5s"}]}
REST = "signal.pause()\n"


def worker(script: str) -> list[str]:
    return python(PREAMBLE + script)


def ends_and_restarts(daemon: Rankd, by: str, words: str, rank: int = 0) -> None:
    """That rank of the first attempt has been ended for it, all start again, and the daemon is well."""
    exited = daemon.wait_for("worker.exited", rank=rank, attempt=0)
    assert (exited["by"], exited["signal"]) == (by, "SIGKILL")
    failed = daemon.wait_for("worker.failed", rank=rank, attempt=0)
    assert words in failed["reason"]
    assert failed["root_cause"]
    daemon.wait_for("group.ready", attempt=1)
    assert daemon.http("/livez").status == 200


def test_a_timer_that_is_not_released_ends_its_worker_and_the_group_goes_on(rankd: Start) -> None:
    script = f"""
with expires(after=600, scope="whole"):
    with expires(after=0.2 if first and rank == "1" else 600, scope="step"):
        {HANG.replace(chr(10), chr(10) + "        ")}
"""
    daemon = rankd(group("job", worker(script), workers=2, stop=AT_ONCE))
    ends_and_restarts(daemon, "timer", "did not release the timer 'step' within 0.2 s", rank=1)
    assert daemon.wait_for("timer.expired")["pid"] == daemon.wait_for("worker.started", rank=1)["pid"]
    metrics = daemon.http("/metrics").text
    assert 'rankd_timers_expired_total{group="job"} 1.0' in metrics
    until(lambda: 'rankd_timers_active{group="job"} 4.0' in daemon.http("/metrics").text, "the timers of attempt 1")
    assert daemon.stop() == 0


def test_a_child_of_a_worker_may_hang_as_well(rankd: Start) -> None:
    script = f"""
if first and not os.fork():
    with expires(after=0.1, scope="child"):
        {HANG.replace(chr(10), chr(10) + "        ")}
{REST}"""
    daemon = rankd(group("job", worker(script)))
    ends_and_restarts(daemon, "timer", "of its process ")
    assert daemon.stop() == 0


def test_a_timer_of_a_process_that_is_no_workers_ends_nobody(rankd: Start) -> None:
    script = f"""
import json
with open(os.environ["TORCHELASTIC_TIMER_FILE"], "w") as pipe:
    for pid in (os.getppid(), 1, {os.getpid()}, 2**22, -1):
        print(json.dumps({{"version": 1, "pid": pid, "scope_id": "x", "expiration_time": 1, "signal": 9}}), file=pipe)
    print("junk", file=pipe)
{REST}"""
    daemon = rankd(group("job", worker(script)))
    refused = {daemon.wait_for("timer.refused", pid=pid)["pid"] for pid in (daemon.process.pid, os.getpid())}
    assert len(refused) == 2
    assert daemon.http("/readyz").status == 200
    assert not daemon.all("worker.exited")
    assert daemon.stop() == 0


def test_who_is_flooded_with_timers_of_strangers_tells_of_some_and_counts_all(rankd: Start) -> None:
    script = f"""
import json
with open(os.environ["TORCHELASTIC_TIMER_FILE"], "w") as pipe:
    for number in range(300):
        timer = {{"version": 1, "pid": 1, "scope_id": str(number), "expiration_time": 1, "signal": 0}}
        print(json.dumps(timer), file=pipe)
{REST}"""
    daemon = rankd(group("job", worker(script)))
    count = 'rankd_refusals_total{group="job",what="timer"} 300.0'
    until(lambda: count in daemon.http("/metrics").text, "all to be counted")
    assert len(daemon.all("timer.refused")) == MOST
    assert daemon.stop() == 0


def test_heartbeats_that_stay_away_end_the_worker(rankd: Start) -> None:
    script = f"heartbeat()\nif not first:\n    heartbeat_every = 0\n    stop = {HANG!r}\n"
    script = "if first:\n    heartbeat()\n" + HANG
    daemon = rankd(group("job", worker(script), watchdog={"heartbeat": "300ms"}, stop=AT_ONCE))
    ends_and_restarts(daemon, "heartbeat", "has sent no heartbeat for 0.3 s")
    assert daemon.stop() == 0


def test_the_oldest_section_counts_however_many_are_opened_in_it(rankd: Start) -> None:
    script = f"""
with section("checkpoint"):
    while first:
        with section("step"):
            time.sleep(0.01)
{REST}"""
    limits = {"sections": {"checkpoint": "300ms", "step": "5m"}}
    daemon = rankd(group("job", worker(script), watchdog=limits))
    ends_and_restarts(daemon, "heartbeat", "has been in section checkpoint for longer than 0.3 s")


def test_the_limit_of_a_section_is_learnt_and_known_to_the_next_daemon(rankd: Start, tmp_path: Path) -> None:
    script = f"""
for step in range(60):
    with section("step"):
        pass
{REST}"""
    limits = {"sections": {"step": "auto"}, "auto": {"floor": "2s"}}
    config = table("daemon", state_dir=str(tmp_path / "kept")) + group("job", worker(script), watchdog=limits)

    def learnt(daemon: Rankd) -> dict[str, Any]:
        told: dict[str, Any] = daemon.http("/status").json["groups"]["job"]["learnt"]["step"]
        return told

    first = rankd(config)
    until(lambda: learnt(first)["seen"] == 60, "all steps")
    assert (learnt(first)["limit_s"], learnt(first)["because"]) == (3600.0, "the ceiling, until 100 were seen")
    assert first.stop() == 0
    second = rankd(config)
    until(lambda: learnt(second)["seen"] == 120, "those of both")
    assert (learnt(second)["limit_s"], learnt(second)["because"]) == (2.0, "the floor")
    assert second.stop() == 0
    (tmp_path / "kept" / "learnt.json").write_text("junk")
    third = rankd(config)
    assert third.wait_for("daemon.learnt_unkept")["reason"] == "it is not JSON"
    until(lambda: learnt(third)["seen"] == 60, "its own")
    assert third.stop() == 0


def test_a_group_is_ready_when_its_workers_say_so_and_fails_when_they_do_not_in_time(rankd: Start) -> None:
    script = f"""
status("loading")
while not os.path.exists("go"):
    time.sleep(0.01)
if not first:
    ready()
    progress(17)
{REST}"""
    daemon = rankd(group("job", worker(script), workers=2, watchdog={"start_timeout": "700ms"}, cwd="."))
    daemon.wait_for("group.started")
    assert daemon.http("/readyz").status == 503
    workers = until(
        lambda: [one for one in daemon.http("/status").json["groups"]["job"]["workers"] if one.get("status")], "words"
    )
    assert (workers[0]["state"], workers[0]["status"]) == ("starting", "loading")
    ends = daemon.wait_for("worker.exited")
    assert ends["by"] == "heartbeat"
    (daemon.directory / "go").touch()
    ready = daemon.wait_for("group.ready")
    assert daemon.all("worker.ready", attempt=ready["attempt"])
    daemon.until("/readyz", 200)
    until(lambda: daemon.http("/status").json["groups"]["job"]["workers"][0].get("progress") == 17, "progress")
    assert daemon.stop() == 0


def test_a_worker_that_the_kernel_holds_is_not_healthy_until_it_is_let_go(rankd: Start, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    command = [*held_for(fifo, 1)[:2], f"{HOLD}\nhold({str(fifo)!r})\nimport signal\nsignal.pause()\n"]
    daemon = rankd(group("job", command, workers=1, watchdog={"uninterruptible": "400ms"}))
    held = daemon.wait_for("worker.uninterruptible")
    assert (held["rank"], held["pid"]) == (0, daemon.wait_for("worker.started")["pid"])
    assert ", D" in held["error"]
    daemon.wait_for("group.degraded")
    assert daemon.http("/readyz").status == 503
    assert daemon.http("/status").json["groups"]["job"]["workers"][0]["state"] == "uninterruptible"
    let_go(fifo)
    daemon.wait_for("worker.uninterruptible", over=True)
    daemon.wait_for("group.ready", count=2)
    daemon.until("/readyz", 200)
    assert not daemon.all("worker.exited")
    assert daemon.stop() == 0


def test_what_the_whole_group_did_is_kept_before_the_one_that_hangs_is_killed(rankd: Start) -> None:
    script = f"""
print("last words of", rank, file=sys.stderr)
status("rank " + rank + " at its work")
if first and rank == "1":
    with section("step"):
        with section("reduce"):
            {HANG.replace(chr(10), chr(10) + "            ")}
{REST}"""
    daemon = rankd(group("job", worker(script), workers=3, watchdog={"sections": {"step": "300ms"}}, stop=AT_ONCE))
    ends_and_restarts(daemon, "heartbeat", "has been in section step", rank=1)
    path = daemon.wait_for("worker.failed")["evidence"]
    dumped = daemon.wait_for("worker.dumped")
    assert path == dumped["evidence"]
    assert dumped["reason"].startswith("has been in section step")
    assert path == str(daemon.log("job", 0, 0).parents[1] / "evidence_1.txt")
    text = Path(path).read_text()
    assert text.startswith("rank 1 has been in section step for longer than 0.3 s\n")
    assert re.search(r"in section 'step' for \d+\.\d s; in section 'reduce' for \d+\.\d s; rank 1 at its work", text)
    for rank, pid in ((one["rank"], one["pid"]) for one in daemon.all("worker.started", attempt=0)):
        assert f"rank {rank} (pid {pid}): " in text
        assert f"    {pid} python" in text
        assert f"rank {rank}:\n  last words of {rank}" in text
    assert daemon.stop() == 0


def test_workers_dump_their_stacks_upon_the_signal_that_is_configured(rankd: Start) -> None:
    script = f"""
import faulthandler
faulthandler.register(signal.SIGUSR1)
def in_the_midst_of_it():
    {HANG.replace(chr(10), chr(10) + "    ")}
heartbeat()
in_the_midst_of_it()
"""
    rules = {"heartbeat": "200ms", "dump": {"signal": "SIGUSR1", "wait": "300ms"}}
    daemon = rankd(group("job", worker(script), workers=2, watchdog=rules, stop=AT_ONCE, restart={"max_restarts": 0}))
    assert daemon.wait() == 137
    failed = daemon.wait_for("worker.failed", root_cause=True)
    text = Path(failed["evidence"]).read_text()
    assert text.count("in in_the_midst_of_it") == 2
    assert len(daemon.all("worker.dumped")) == 1  # both hang, and one look shows both


def test_the_signal_to_dump_goes_to_nobody_who_would_die_of_it(rankd: Start) -> None:
    """A worker may hang before it has come as far as to register a handler."""
    rules = {"start_timeout": "60s", "heartbeat": "200ms", "dump": {"signal": "SIGUSR1", "wait": "100ms"}}
    script = "heartbeat() if rank == '0' else None\n" + HANG
    daemon = rankd(group("job", worker(script), workers=2, watchdog=rules, stop=AT_ONCE, restart={"max_restarts": 0}))
    assert daemon.wait() == 137
    assert (daemon.wait_for("worker.exited", rank=0)["by"], daemon.wait_for("worker.failed")["rank"]) == (
        "heartbeat",
        0,
    )


def test_who_is_being_stopped_is_not_taken_to_hang(rankd: Start) -> None:
    """It writes its last checkpoint, and neither says a word nor is asked for one."""
    script = """
def save(*_):
    time.sleep(2.5)
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGUSR1, lambda *_: os._exit(9))
heartbeat()
print("up", flush=True)
while True:
    time.sleep(0.05)
    heartbeat()
"""
    rules = {"heartbeat": "1500ms", "dump": {"signal": "SIGUSR1", "wait": "100ms"}}
    daemon = rankd(group("job", worker(script), watchdog=rules))
    daemon.wait_for_line("up")
    assert daemon.stop() == 0
    assert daemon.log("job", 0, 0).read_text() == "up\nsaved\n"
    assert not daemon.all("worker.dumped")


def test_a_command_tells_more_of_each_worker_and_is_not_waited_for_any_longer_than_is_configured(rankd: Start) -> None:
    command = ["/bin/sh", "-c", "echo the stack of ${pid} is rank ${rank}; [ ${rank} = 1 ] || exec sleep 1000"]
    rules = {"start_timeout": "60s", "heartbeat": "200ms", "dump": {"command": command, "wait": "500ms"}}
    script = f"heartbeat() if rank == '0' else None\n{HANG}"
    daemon = rankd(group("job", worker(script), workers=2, watchdog=rules, stop=AT_ONCE, restart={"max_restarts": 0}))
    assert daemon.wait() == 137
    text = Path(daemon.wait_for("worker.failed", root_cause=True)["evidence"]).read_text()
    pids = {one["rank"]: one["pid"] for one in daemon.all("worker.started")}
    assert f"rank 0:\n  the stack of {pids[0]} is rank 0\n  it took longer than 0.5 s and was killed" in text
    assert f"rank 1:\n  the stack of {pids[1]} is rank 1\nrank" not in text
    assert f"rank 1:\n  the stack of {pids[1]} is rank 1\n" in text


def test_who_hangs_is_ended_also_where_the_evidence_cannot_be_written(rankd: Start) -> None:
    script = f"""
attempt = os.path.dirname(os.path.dirname(os.environ["TORCHELASTIC_ERROR_FILE"]))
if first:
    os.rename(attempt, attempt + ".moved")
    heartbeat()
    {HANG.replace(chr(10), chr(10) + "    ")}
{REST}"""
    daemon = rankd(group("job", worker(script), watchdog={"heartbeat": "200ms"}, stop=AT_ONCE))
    ends_and_restarts(daemon, "heartbeat", "has sent no heartbeat")
    assert daemon.wait_for("worker.dumped")["error"] == "No such file or directory"
    assert "evidence" not in daemon.wait_for("worker.failed")
    assert daemon.stop() == 0


def test_a_peer_that_dies_while_a_hung_worker_is_looked_at_does_not_hide_it(rankd: Start) -> None:
    """It may die of the very thing that the other one hangs in, and nobody is to look at the wrong rank at night."""
    command = ["/bin/sh", "-c", "[ ${rank} = 0 ] || { kill -KILL ${pid}; exec sleep 1000; }"]
    rules = {"start_timeout": "60s", "heartbeat": "200ms", "dump": {"command": command, "wait": "500ms"}}
    script = f"heartbeat() if rank == '0' else None\n{HANG}"
    daemon = rankd(group("job", worker(script), workers=2, watchdog=rules, stop=AT_ONCE, restart={"max_restarts": 0}))
    assert daemon.wait() == 137
    failed = {one["rank"]: one["root_cause"] for one in daemon.all("worker.failed")}
    assert failed == {0: True, 1: False}
    assert daemon.wait_for("group.failed")["reason"].startswith("rank 0 has sent no heartbeat for 0.2 s")
    missed = daemon.wait_for("worker.heartbeat_missed")
    assert (missed["what"], missed["limit_ms"], missed["signal"]) == ("heartbeat", 200.0, "SIGKILL")
    dumped = daemon.wait_for("worker.dumped")
    assert missed["seq"] < daemon.wait_for("worker.exited", rank=1)["seq"] < dumped["seq"], "it is told at once"
    assert "rank 0:\n" in Path(dumped["evidence"]).read_text(), "and what is known is kept, though all have ended"


def test_a_worker_that_says_it_stops_and_does_not_is_ended_after_the_time_of_its_stop_ladder(rankd: Start) -> None:
    script = f"ready()\nstopping()\n{HANG}"
    rules = {"start_timeout": "60s"}
    ladder = {"ladder": [{"signal": "SIGTERM", "wait": "200ms"}, {"signal": "SIGKILL", "wait": "200ms"}]}
    daemon = rankd(group("job", worker(script), watchdog=rules, stop=ladder, restart={"max_restarts": 0}))
    assert daemon.wait() == 137
    assert daemon.wait_for("worker.unready")["reason"] == "it says that it stops"
    assert daemon.wait_for("worker.heartbeat_missed")["what"] == "stopping"


def test_what_a_child_says_of_its_own_end_is_not_its_workers(rankd: Start) -> None:
    script = f"""
ready()
if os.fork() == 0:
    stopping()
    status("of a child")
    signal.pause()
{HANG}"""
    ladder = {"ladder": [{"signal": "SIGKILL", "wait": "1s"}]}
    daemon = rankd(group("job", worker(script), watchdog={"start_timeout": "60s", "stopping": "50ms"}, stop=ladder))
    until(lambda: "of a child" in daemon.http("/status").text, "its words")
    assert daemon.http("/readyz").status == 200
    assert daemon.stop() == 0
    assert not daemon.all("worker.unready")


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="apt-get install systemd")
def test_a_shell_script_says_it_by_systemd_notify(rankd: Start) -> None:
    script = "systemd-notify --ready --status='as good as gold'; exec sleep 1000"
    daemon = rankd(group("job", ["/bin/sh", "-c", script], watchdog={"start_timeout": "10s"}))
    daemon.wait_for("group.ready")
    worker = daemon.http("/status").json["groups"]["job"]["workers"][0]
    assert (worker["state"], worker["status"]) == ("ready", "as good as gold")
    assert daemon.stop() == 0


def test_a_daemon_that_was_stopped_for_a_while_holds_nobody_to_be_late(rankd: Start) -> None:
    script = "while True:\n    heartbeat()\n    time.sleep(0.05)\n"
    daemon = rankd(group("job", worker(script), watchdog={"heartbeat": "500ms"}))
    until(lambda: 'rankd_heartbeats_total{group="job"} 0.0' not in daemon.http("/metrics").text, "a heartbeat")
    (worker_pid,) = [one["pid"] for one in daemon.all("worker.started")]
    for pid in (daemon.process.pid, worker_pid):
        os.kill(pid, signal.SIGSTOP)
    try:
        threading.Event().wait(2.5)  # what is tested is that time passes
    finally:
        for pid in (daemon.process.pid, worker_pid):
            os.kill(pid, signal.SIGCONT)
    jumped = daemon.wait_for("daemon.clock_jumped")
    assert jumped["duration_ms"] > 1000
    assert daemon.http("/readyz").status == 200
    assert not daemon.all("worker.exited")
    assert daemon.stop() == 0


def test_a_launch_takes_torchs_timers_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        PREAMBLE
        + "restarts = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        + "with expires(after=0.2, scope='step'):\n    while not restarts: signal.pause()\n"
        + "print('timers at', os.environ['TORCHELASTIC_TIMER_FILE'], 'and', os.environ.get('NOTIFY_SOCKET'))\n"
    )
    path = tmp_path / "timers"
    env = {"TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TORCHELASTIC_TIMER_FILE": str(path)}
    done = launch(tmp_path, "--standalone", "--max-restarts=1", "job.py", env=env)
    assert (done.returncode, done.stdout) == (0, f"timers at {path} and None\n")
    assert "did not release the timer 'step'" in done.stderr
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run a worker as somebody else")
def test_a_worker_of_another_user_is_heard_as_well(rankd: Start, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        if directory.owner() == "root" and directory.stat().st_mode & 0o005 != 0o005:
            directory.chmod(0o755)
    script = (
        "import json, os, socket, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "address = os.environ['NOTIFY_SOCKET']\n"
        "s.connect(chr(0) + address[1:] if address[0] == '@' else address)\n"
        "s.send(b'READY=1\\nSTATUS=somebody else')\n"
        "with open(os.environ['TORCHELASTIC_TIMER_FILE'], 'w') as pipe:\n"
        "    pipe.write(json.dumps(dict(version=1, pid=os.getpid(), scope_id='x', expiration_time=time.time() + 600,"
        " signal=9)) + chr(10))\n"
        "time.sleep(1000)\n"
    )
    daemon = rankd(
        group("job", ["/usr/bin/python3", "-c", script], user="nobody", cwd="/", watchdog={"start_timeout": "10s"})
    )
    daemon.wait_for("group.ready")
    until(lambda: 'rankd_timers_active{group="job"} 1.0' in daemon.http("/metrics").text, "its timer")
    assert daemon.stop() == 0
