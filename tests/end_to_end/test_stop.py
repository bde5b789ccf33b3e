"""Whatever the workers are up to, a stop leads to nothing left, within the ladder's time."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, ladder, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import until

pytestmark = pytest.mark.end_to_end

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\nwhile True: signal.pause()"
FAMILY = """
import os, signal, sys
sys.stdout.flush()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else signal.SIG_DFL)
        print("grandchild", os.getpid(), flush=True)
        signal.pause()
    os._exit(0)
os.wait()
if "leaves" in sys.argv:
    while not os.path.getsize(sys.argv[1]): pass
    sys.exit(0)
signal.pause()
"""


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, its reaped children left out (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_worker_that_ignores_sigterm_is_killed_by_the_ladder(rankd: Start) -> None:
    daemon = rankd(group("job", python(STUBBORN), workers=2, stop=ladder("300ms")))
    daemon.wait_for_line("up", count=2)
    asked_at = time.monotonic()
    assert daemon.stop() == 0
    assert 0.3 < time.monotonic() - asked_at < 2
    assert len(daemon.all("worker.killed", signal="SIGKILL", by="daemon")) == 2
    assert len(daemon.all("worker.exited", signal="SIGKILL", by="daemon")) == 2


def test_a_second_sigterm_does_not_wait_for_the_ladder(rankd: Start) -> None:
    daemon = rankd(group("job", python(STUBBORN), workers=2, stop=ladder("10m")))
    daemon.wait_for_line("up", count=2)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("group.stopping")
    daemon.signal(signal.SIGINT)  # together with the first one it is the same request
    with pytest.raises(AssertionError, match="worker.killed"):
        daemon.wait_for("worker.killed", timeout=1.5)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(timeout=5) == 0
    assert len(daemon.all("worker.exited", signal="SIGKILL", by="daemon")) == 2


def test_a_worker_that_stopped_itself_can_still_be_terminated(rankd: Start) -> None:
    script = "import os, signal; print('up', flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    daemon = rankd(group("job", python(script), workers=1, stop=ladder("30s")))
    stat = Path(f"/proc/{daemon.wait_for('worker.started')['pid']}/stat")
    until(lambda: stat.read_bytes().rpartition(b") ")[2].startswith(b"T"), "worker in state T")
    assert daemon.stop(timeout=5) == 0
    daemon.wait_for("worker.exited", signal="SIGTERM", by="daemon")


def test_a_worker_that_closes_its_output_is_left_in_peace(rankd: Start) -> None:
    script = "import os, signal; os.write(2, b'last words\\n'); os.close(1); os.close(2); signal.pause()"
    daemon = rankd(group("job", python(script), workers=2))
    daemon.wait_for("daemon.ready")
    daemon.wait_for_line("last words", count=2)
    used = cpu_seconds(daemon.process.pid)
    time.sleep(0.5)  # not for something to happen: a window in which nothing should
    assert cpu_seconds(daemon.process.pid) - used < 0.1, "it spins on a closed pipe"
    assert not daemon.all("worker.exited")
    assert daemon.stop() == 0


@pytest.mark.parametrize("temper", ["meek", "stubborn"])
def test_a_double_forked_grandchild_goes_with_a_stop(rankd: Start, temper: str) -> None:
    daemon = rankd(group("job", python(FAMILY, "-", temper), workers=1, stop=ladder("300ms")))
    daemon.wait_for_line("grandchild")
    assert len(daemon.strays()) == 2
    assert daemon.stop() == 0
    assert daemon.strays() == []


@pytest.mark.parametrize("temper", ["meek", "stubborn"])
def test_what_a_worker_leaves_behind_is_named_and_ended(rankd: Start, temper: str, tmp_path: Path) -> None:
    command = ["${RANKD_STATE_DIR}/logs/job/${TORCHELASTIC_RUN_ID}/attempt_0/0/stdout.log", "leaves", temper]
    daemon = rankd(group("job", python(FAMILY, *command), workers=1, stop=ladder("300ms")))
    assert daemon.wait() == 0
    grandchild = daemon.log("job", 0, 0).read_text().split()[1]
    orphans = daemon.wait_for("worker.orphan_killed", group="job", rank=0)
    assert orphans["count"] == 1
    assert orphans["processes"][0].split()[0] == grandchild
    assert orphans["seq"] < daemon.wait_for("group.succeeded")["seq"], "success was said before all were gone"
    assert daemon.strays() == []


def test_sigterm_while_200_workers_are_being_started_finds_them_all(rankd: Start) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6)))
    print("SEED =", seed)
    chance = random.Random(seed)
    for at in (1, chance.randrange(2, 60), chance.randrange(60, 200)):
        daemon = rankd(group("job", SLEEP, workers=200))
        daemon.wait_for("worker.started", count=at)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert len(daemon.all("worker.started")) == len(daemon.all("worker.exited"))
        assert daemon.strays() == []


def test_sigterm_before_the_first_worker_ends_in_peace(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2))
    daemon.wait_for("daemon.started")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(timeout=5) == 0
    assert len(daemon.all("worker.started")) == len(daemon.all("worker.exited"))


def test_sigterm_during_a_restart_does_not_restart(rankd: Start) -> None:
    script = (
        "import os, signal, sys\nif os.environ['RANK'] == '0': print('going', flush=True); sys.exit(1)\n" + STUBBORN
    )
    daemon = rankd(group("job", python(script), workers=2, stop=ladder("400ms"), restart={"max_restarts": -1}))
    daemon.wait_for("group.restarting")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert daemon.all("group.starting")[-1]["seq"] < daemon.wait_for("daemon.stopping")["seq"]


def test_a_worker_killed_from_outside_is_said_to_be(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2, restart={"max_restarts": 0}))
    daemon.wait_for("group.ready")
    os.kill(daemon.wait_for("worker.started", rank=1)["pid"], signal.SIGKILL)
    assert daemon.wait() == 128 + 9
    daemon.wait_for("worker.exited", rank=1, by="outside", signal="SIGKILL")
    daemon.wait_for("worker.failed", rank=1, root_cause=True)
