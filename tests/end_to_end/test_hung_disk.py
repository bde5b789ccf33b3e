"""A disk that neither takes nor refuses bytes: a frozen file system stops its writers as a server that hangs does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import Rankd, until

pytestmark = pytest.mark.end_to_end

LINE = 1000
FLOOD = python(f"""
import os, signal, time
LINE, last = {LINE}, 10**9
def a_few_more(*_):
    global last
    last = n + 50
signal.signal(signal.SIGUSR1, a_few_more)
n = 0
while n < last:
    os.write(1, b'%09d' % n + b'.' * (LINE - 10) + b'\\n')
    n += 1
    if n % 20 == 0:
        time.sleep(0.001)  # a test that is kept waiting finds the disk not full
signal.pause()
""")
"""Writes lines without end; SIGUSR1: a few more."""


class FreezableDisk:
    """A small ext4 of its own at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "-f", str(self.path)], check=True)

    def thaw(self) -> None:
        subprocess.run(["fsfreeze", "-u", str(self.path)], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FreezableDisk]:
    image, at = tmp_path / "image", tmp_path / "disk"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(1 << 29)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs root, loop devices, e2fsprogs and util-linux (mkfs.ext4, mount -o loop, fsfreeze): {error}")
    made = FreezableDisk(at)
    try:
        yield made
    finally:
        made.thaw()
        subprocess.run(["umount", "-l", str(at)], check=True)


def flooded(rankd: Start, disk: FreezableDisk) -> Rankd:
    """One group floods the disk, the other has nothing to do with it."""
    daemon = rankd(
        group("job", FLOOD, logs={"dir": str(disk.path), "tee": "1", "rotate": {"max_bytes": 1 << 24, "keep": 100}})
        + group("other", SLEEP),
        console=False,
    )
    daemon.wait_for("worker.started", group="job")
    daemon.wait_for("worker.started", group="other")
    until(lambda: any(log.stat().st_size > 1 << 20 for log in disk.path.rglob("stdout.log")), "a MB in the log")
    return daemon


@pytest.mark.timeout(60)
def test_a_disk_that_does_not_answer_holds_up_nobody_and_its_file_says_what_is_missing(
    rankd: Start, disk: FreezableDisk
) -> None:
    daemon = flooded(rankd, disk)
    flood = daemon.wait_for("worker.started", group="job")["pid"]
    disk.freeze()
    daemon.wait_for("worker.output_dropped", over=False, group="job", reason="the disk does not answer")
    for _ in range(10):
        assert daemon.http("/livez").took_for < 0.5
    os.kill(daemon.wait_for("worker.started", group="other")["pid"], signal.SIGKILL)
    daemon.wait_for("worker.started", group="other", attempt=1)
    disk.thaw()
    over = daemon.wait_for("worker.output_dropped", over=True, group="job")
    os.kill(flood, signal.SIGUSR1)
    mark = re.compile(rb"\[rankd: dropped (\d+) bytes: the disk does not answer\]\n")
    text = until(lambda: marked(disk.path, mark), "lines behind the mark")
    assert daemon.stop() == 0
    before, missing, after = mark.split(text, maxsplit=1)
    assert int(missing) == over["dropped_bytes"] > 0
    behind = re.search(rb"^(\d{9})\.+$", after, re.MULTILINE)
    assert behind is not None
    numbers = [int(line[:9]) for line in before.splitlines() if len(line) == LINE - 1]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    kept_behind = int(behind[1]) * LINE - after.index(behind[0])
    assert numbers[0] * LINE + len(before) + int(missing) - kept_behind in {0, 1}  # the mark's own newline


def marked(directory: Path, mark: re.Pattern[bytes]) -> bytes | None:
    """What the logs there have from the first to the last, once there are lines behind the mark."""
    logs = sorted(
        directory.rglob("stdout.log*"), key=lambda path: -int(path.suffix[1:] if path.suffix != ".log" else 0)
    )
    text = b"".join(log.read_bytes() for log in logs)
    found = mark.search(text)
    return text if found is not None and len(text) > found.end() + 10_000 else None


@pytest.mark.timeout(60)
def test_a_worker_that_is_to_start_there_waits_for_the_disk_and_nobody_else_does(
    rankd: Start, disk: FreezableDisk
) -> None:
    daemon = flooded(rankd, disk)
    disk.freeze()
    daemon.wait_for("worker.output_dropped", over=False, group="job")
    os.kill(daemon.wait_for("worker.started", group="job")["pid"], signal.SIGKILL)
    daemon.wait_for("group.starting", group="job", attempt=1)
    os.kill(daemon.wait_for("worker.started", group="other")["pid"], signal.SIGKILL)
    daemon.wait_for("worker.started", group="other", attempt=1)
    for _ in range(10):
        assert daemon.http("/livez").took_for < 0.5
    assert not daemon.all("worker.started", group="job", attempt=1)
    disk.thaw()
    daemon.wait_for("worker.started", group="job", attempt=1)
    assert daemon.stop() == 0


@pytest.mark.timeout(60)
def test_a_stop_does_not_wait_for_a_disk_that_does_not_answer(rankd: Start, disk: FreezableDisk) -> None:
    daemon = flooded(rankd, disk)
    disk.freeze()
    daemon.wait_for("worker.output_dropped", over=False, group="job")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for("daemon.stopped", timeout=5)

    def is_gone() -> bool:
        """All but the thread that the kernel does not let go of."""
        return "State:\tZ" in Path(f"/proc/{daemon.process.pid}/status").read_text()

    until(is_gone, "the daemon's end", 5)
    disk.thaw()
    assert daemon.wait() == 0
