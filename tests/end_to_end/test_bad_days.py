"""The machine is short of something, or a worker floods: supervision goes on."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import until

pytestmark = pytest.mark.end_to_end

FEW_FILES = ("/bin/sh", "-c", 'ulimit -S -n 64 && ulimit -H -n 64 && exec "$@"', "sh")


def memory_mib(pid: int) -> float:
    """Resident memory that is not shared with files (proc_pid_status(5), RssAnon)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


@pytest.mark.timeout(120)
def test_200_mb_without_a_newline_reach_the_file_and_cost_no_memory(rankd: Start) -> None:
    script = "import os, signal\nfor _ in range(3200): os.write(1, b'x' * 62500)\nprint(flush=True); signal.pause()"
    daemon = rankd(group("job", python(script), workers=1), console=False)
    path = daemon.log("job", 0, 0)
    until(lambda: path.exists() and path.stat().st_size == 200_000_001, "200 MB in the log", 90)
    assert memory_mib(daemon.process.pid) < 60
    assert daemon.http("/livez").took_for < 0.5
    assert daemon.stop() == 0
    path.unlink()


def test_a_flooding_worker_does_not_delay_a_stop(rankd: Start) -> None:
    flood = ["/bin/sh", "-c", "exec yes a line that comes again and again"]
    daemon = rankd(group("job", flood, workers=2), console=False)
    path = daemon.log("job", 0, 1)
    until(lambda: path.exists() and path.stat().st_size > 10_000_000, "10 MB in the log")
    assert daemon.http("/livez").status == 200
    assert daemon.stop(timeout=10) == 0
    for rank in range(2):
        path = daemon.log("job", 0, rank)
        with path.open("rb") as file:
            lines = file.read()[:-50].splitlines()
        assert set(lines[:-1]) == {b"a line that comes again and again"}
        path.unlink()


def test_the_last_bytes_before_death_are_kept(rankd: Start) -> None:
    script = "import os, signal; os.write(1, b'a line\\nno newline'); os.kill(os.getpid(), signal.SIGKILL)"
    daemon = rankd(group("job", python(script), workers=8, restart={"max_restarts": 0}))
    assert daemon.wait() == 137
    assert daemon.log("job", 0, daemon.wait_for("worker.failed")["rank"]).read_bytes() == b"a line\nno newline"
    assert any(line.endswith("no newline") for line in daemon.console)


def test_too_few_descriptors_mean_backoff_and_words_and_then_recovery(rankd: Start) -> None:
    restart = {"max_restarts": -1, "backoff": {"initial": "100ms", "jitter": 0.0}}
    daemon = rankd(group("job", SLEEP, workers=60, restart=restart), through=FEW_FILES)
    failure = daemon.wait_for("worker.failed")
    assert "Too many open files" in failure["reason"]
    daemon.wait_for("group.backing_off")
    assert daemon.http("/livez").status == 200
    assert daemon.http("/readyz").status == 503
    held = len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
    daemon.wait_for("group.backing_off", count=3)
    assert len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())) <= held
    try:
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (4096, 4096))
    except PermissionError:  # only root may raise another process's hard limit
        assert daemon.stop() == 0
        return
    daemon.wait_for("group.ready")
    assert len(daemon.strays()) == 60
    assert daemon.stop() == 0


def test_a_full_disk_stops_no_worker(rankd: Start) -> None:
    script = "import os, sys, signal\nos.write(1, b'x' * 65536)\nprint('still here', file=sys.stderr); signal.pause()"
    no_space = ("/bin/sh", "-c", 'ulimit -f 8 && trap "" XFSZ && exec "$@"', "sh")  # 4 KiB a file, then EFBIG
    daemon = rankd(group("job", python(script), workers=2), through=no_space)
    daemon.wait_for_line("still here", count=2)
    daemon.wait_for("worker.output_dropped")
    assert daemon.http("/readyz").status == 200
    assert daemon.stop() == 0
