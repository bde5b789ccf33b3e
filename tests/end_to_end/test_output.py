"""The output path from end to end: every line is accounted for, and no disk, reader or directory stops supervision."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.configs import group, ladder, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import until

FLOOD = "import os\nfor n in range(20000): os.write(1, b'%s %d %s\\n' % (os.environb[b'RANK'], n, b'x' * (n % 90)))"


def flood_of(rank: int) -> bytes:
    return b"".join(b"%d %d %s\n" % (rank, n, b"x" * (n % 90)) for n in range(20000))


def metric(text: str, name: str) -> float:
    return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)))


def test_under_a_flood_of_two_workers_every_line_is_in_one_rotated_file(rankd: Start) -> None:
    rules = {"rotate": {"max_bytes": "50kB", "keep": 100}, "redirects": "0:3", "tee": "1:3"}
    daemon = rankd(group("job", python(FLOOD), workers=2, logs=rules))
    assert daemon.wait(60) == 0
    for rank in range(2):
        log = daemon.log("job", 0, rank)
        count = len(list(log.parent.glob("stdout.log.*")))
        assert count > 10
        files = [log.with_name(f"stdout.log.{number}").read_bytes() for number in range(count, 0, -1)]
        assert b"".join([*files, log.read_bytes()]) == flood_of(rank)
        assert all(len(file) < 51_000 and file.endswith(b"\n") for file in files)
    assert not daemon.all("worker.output_dropped")
    shown = [line.removeprefix("[job1]:").encode() + b"\n" for line in daemon.console if line.startswith("[job1]:")]
    assert set(shown) <= set(flood_of(1).splitlines(keepends=True))


def test_sigusr1_opens_the_files_anew(rankd: Start) -> None:
    script = "import signal\nwhile True: print('line'); signal.sigwait([signal.SIGURG])"
    block = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])\n"
    daemon = rankd(group("job", python(block + script)))
    daemon.wait_for_line("line")
    log = daemon.log("job", 0, 0)
    moved = log.with_name("moved")
    until(lambda: log.exists() and log.read_text(), "the first line")
    log.rename(moved)
    daemon.signal(signal.SIGUSR1)
    daemon.wait_for("daemon.logs_reopened")
    os.kill(daemon.wait_for("worker.started")["pid"], signal.SIGURG)
    daemon.wait_for_line("line", count=2)
    until(lambda: (moved.read_text(), log.read_text()) == ("line\n", "line\n"), "a line in each file")
    assert daemon.stop() == 0


def small_disk(at: Path) -> tuple[str, ...]:
    """What gives a command 64 KiB of disk there, 40 kB of it taken by "filler", in a mount namespace of its own."""
    at.mkdir()
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(at)], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"needs the right to mount a small tmpfs (root, CAP_SYS_ADMIN): {tried.stderr.strip()}")
    mount = f'mount -t tmpfs -o size=64k tmpfs "{at}" && head -c 40000 /dev/zero >"{at}/filler" && exec "$@"'
    return ("unshare", "-m", "sh", "-c", mount, "sh")


AFTERWARDS = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
os.write(1, b'x' * 60000 + b'\\n')
print('written', file=open(2, 'w'))
signal.sigwait([signal.SIGURG])
os.write(1, b'the end\\n')
signal.pause()
"""


def test_a_full_disk_is_told_counted_and_marked_in_the_file_when_there_is_room_again(
    rankd: Start, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    through = small_disk(disk)
    daemon = rankd(group("job", python(AFTERWARDS), logs={"dir": str(disk), "tee": "1"}), through=through)
    begun = daemon.wait_for("worker.output_dropped", over=False)
    assert (begun["into"], begun["rank"], begun["reason"]) == ("stdout.log", 0, "No space left on device")
    daemon.wait_for_line("written")
    inside = Path(f"/proc/{daemon.wait_for('daemon.started')['pid']}/root{disk}")
    (inside / "filler").unlink()
    os.kill(daemon.wait_for("worker.started")["pid"], signal.SIGURG)
    lost = daemon.wait_for("worker.output_dropped", over=True)["dropped_bytes"]
    log = next(inside.glob("job/*/attempt_0/0/stdout.log"))
    until(lambda: log.read_bytes().endswith(b"\nthe end\n"), "the end")
    kept, mark, end = log.read_bytes().split(b"\n")[:3]
    assert mark == b"[rankd: dropped %d bytes: No space left on device]" % lost
    assert (len(kept) + lost, end) == (60001, b"the end")
    assert metric(daemon.http("/metrics").text, "rankd_log_dropped_bytes_total") == lost
    assert daemon.http("/readyz").status == 200
    assert daemon.stop() == 0


def test_a_worker_that_waits_for_a_full_disk_is_told_of_goes_on_later_and_can_be_stopped(
    rankd: Start, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    through = small_disk(disk)
    rules = {"dir": str(disk), "tee": "1", "when_full": "block"}
    daemon = rankd(
        group("job", python(AFTERWARDS), logs=rules) + group("yes", ["/usr/bin/yes"], stop=ladder("2s"), logs=rules),
        through=through,
    )
    daemon.wait_for("worker.output_blocked", over=False, group="yes")
    daemon.wait_for("worker.output_blocked", over=False, group="job")
    inside = Path(f"/proc/{daemon.wait_for('daemon.started')['pid']}/root{disk}")
    assert daemon.http("/readyz").status == 200
    (inside / "filler").unlink()
    daemon.wait_for("worker.output_blocked", over=True)
    assert daemon.stop() == 0
    assert not daemon.all("worker.killed")


def test_a_log_directory_removed_under_us_stops_no_worker_and_the_next_attempt_has_its_own(rankd: Start) -> None:
    script = (
        "import signal, sys\nprint('up')\nsignal.sigwait([signal.SIGURG])\nprint('why', file=sys.stderr)\nsys.exit(3)"
    )
    block = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])\n"
    daemon = rankd(group("job", python(block + script), restart={"max_restarts": 1}))
    daemon.wait_for_line("up")
    logs = daemon.directory / "state/logs"
    shutil.rmtree(logs)
    os.kill(daemon.wait_for("worker.started")["pid"], signal.SIGURG)
    assert daemon.wait_for("worker.failed")["stderr_tail"] == "why"
    daemon.wait_for_line("up", count=2)
    until(lambda: daemon.log("job", 1, 0).read_text() == "up\n", "the line in the file")
    os.kill(daemon.wait_for("worker.started", count=2)["pid"], signal.SIGURG)
    assert daemon.wait_for("worker.failed", count=2)["stderr_tail"] == "why"
    assert daemon.wait() == 3


def test_what_a_stopping_group_prints_is_read_to_its_end(rankd: Start) -> None:
    script = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print('up')
signal.sigwait([signal.SIGTERM])
for n in range(5000): os.write(1, b'%d\\n' % n)
"""
    daemon = rankd(group("job", python(script), workers=2))
    daemon.wait_for_line("up", count=2)
    assert daemon.stop() == 0
    for rank in range(2):
        assert daemon.log("job", 0, rank).read_bytes() == b"up\n" + b"".join(b"%d\n" % n for n in range(5000))
        shown = [line for line in daemon.console if line.startswith(f"[job{rank}]:")]
        assert shown == [f"[job{rank}]:{words}" for words in ("up", *range(5000))]


def test_the_loss_of_a_console_is_told_once(rankd: Start) -> None:
    reading, writing = os.pipe()
    noisy = ["/bin/sh", "-c", "while echo noise; do sleep 0.01; done"]
    elsewhere = ("/bin/sh", "-c", f'exec "$@" 2>/proc/self/fd/{writing}', "sh")
    daemon = rankd(group("job", noisy, workers=2), through=elsewhere, pass_fds=(writing,))
    os.close(writing)
    daemon.wait_for("group.started")
    os.close(reading)
    lost = daemon.wait_for("daemon.console_lost")
    assert (lost["stream"], lost["reason"]) == ("stderr", "Broken pipe")
    log = daemon.log("job", 0, 0)
    size = log.stat().st_size
    until(lambda: log.stat().st_size > size, "more of the log file")
    assert daemon.stop() == 0
    assert len(daemon.all("daemon.console_lost")) == 1


def test_each_record_that_nobody_reads_is_counted(rankd: Start) -> None:
    noisy = ["/bin/sh", "-c", "echo noise; exit 1"]
    job = group("job", noisy, restart={"max_restarts": -1, "backoff": {"initial": "10ms", "factor": 1}})
    daemon = rankd(job)
    daemon.wait_for("worker.failed")
    assert metric(daemon.http("/metrics").text, "rankd_events_dropped_total") == 0
    daemon.hang_up()
    until(lambda: not daemon.is_read, "end of reading")
    exits = metric(daemon.http("/metrics").text, "rankd_worker_exits_total")

    def counted() -> bool:
        text = daemon.http("/metrics").text
        return metric(text, "rankd_worker_exits_total") > exits + 10 < metric(text, "rankd_events_dropped_total")

    until(counted, "lost records")
    assert daemon.stop() == 0
