"""What torchrun was measured to get wrong when a worker fails, and ``rankd launch`` gets right."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.launching import launch, launched, tree
from tests.end_to_end.rankd import PATIENCE

pytestmark = pytest.mark.end_to_end

TOGETHER = """
import os, sys, signal, time
rank, attempt = os.environ["RANK"], int(os.environ["TORCHELASTIC_RESTART_COUNT"])
open(f"up_{rank}_{attempt}", "w").close()
while rank == "1" and not os.path.exists(f"up_0_{attempt}"):
    time.sleep(0.01)
if rank == "0" and attempt == 0:
    signal.pause()
"""
"""Rank 1 goes on when rank 0 is there to be stopped; in the first attempt rank 0 waits for that."""


def script(directory: Path, text: str) -> Path:
    path = directory / "job.py"
    path.write_text(text)
    return path


def test_a_crash_is_the_exit_code_and_the_peer_that_was_stopped_is_no_failure(tmp_path: Path) -> None:
    """torchrun ends with 1, and names the peer among the failures with exit code -15."""
    job = script(tmp_path, TOGETHER + "os.kill(os.getpid(), signal.SIGSEGV)\n")
    done = launch(tmp_path, "--nproc-per-node=2", job)
    assert done.returncode == 128 + signal.SIGSEGV == 139
    summary = done.stderr[done.stderr.index("group default FAILED") :]
    assert "killed by SIGSEGV" in summary
    assert "Stopped by rankd, no failures of their own:\n  rank 0\n" in summary
    assert "SIGTERM" not in summary


def test_an_exit_under_record_is_the_exit_code_and_leaves_no_error_file(tmp_path: Path) -> None:
    """torchrun ends with 1 whatever the worker's code was."""
    job = script(
        tmp_path,
        "import sys\nfrom supervisor.worker import record\n@record\ndef main():\n    sys.exit(3)\nmain()\n",
    )
    assert launch(tmp_path, "--log-dir=logs", "-r3", job).returncode == 3
    assert list((tmp_path / "logs").rglob("stderr.log"))
    assert list((tmp_path / "logs").rglob("error.json")) == []


def test_an_error_file_that_is_cut_off_is_a_note_and_the_workers_restart(tmp_path: Path) -> None:
    """torchrun's agent ends with a JSONDecodeError of its own, and restarts nothing."""
    job = script(
        tmp_path,
        TOGETHER + "if rank == '1' and attempt == 0:\n"
        "    with open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w') as file:\n"
        '        file.write(\'{"message": {"message": "ValueEr\')\n'
        "    sys.exit(5)\n",
    )
    done = launch(tmp_path, "--nproc-per-node=2", "--max-restarts=3", "--log-dir=logs", job)
    assert done.returncode == 0, done.stderr
    assert "exited with code 5" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "logs").glob("*/attempt_*")) == ["attempt_0", "attempt_1"]


def test_a_restart_does_not_wait_longer_than_the_shutdown_timeout_for_a_deaf_peer(tmp_path: Path) -> None:
    """torchrun waits 30 s here whatever it was told."""
    job = script(
        tmp_path,
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + TOGETHER
        + "if rank == '1' and attempt == 0:\n    os._exit(5)\n",
    )
    done = launch(tmp_path, "--nproc-per-node=2", "--max-restarts=1", "--shutdown-timeout=1", job, timeout=15)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [0, 3])
def test_a_script_of_run_path_may_exit(code: int, tmp_path: Path) -> None:
    """torchrun was seen to hang then."""
    job = script(tmp_path, f"import sys\nprint('up', flush=True)\nsys.exit({code})\n")
    done = launch(tmp_path, "--run-path", job)
    assert (done.returncode, done.stdout) == (code, "up\n")


WITH_CHILD = """
import os, signal, subprocess, sys
child = subprocess.Popen(["/bin/sleep", "1000"])
sys.stdout.write(f"{os.getpid()} {child.pid}\\n")  # at once, for under -u print() writes word by word
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_every_signal_that_ends_it_ends_workers_and_their_children(number: signal.Signals, tmp_path: Path) -> None:
    words = ("--nproc-per-node=2", script(tmp_path, WITH_CHILD))
    with launched(tmp_path, *words) as job:
        assert job.stdout is not None
        pids = [int(word) for _ in range(2) for word in job.stdout.readline().split()]
        job.send_signal(number)
        assert job.wait(PATIENCE) == 128 + number
    assert len(pids) == 4
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
    assert tree(tmp_path / "tmp") == []


def failures(folder: Path) -> list[dict[str, Any]]:
    """What the one run with logs in that folder has kept."""
    (file,) = (folder / "logs").rglob("failures.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_first_to_fail_is_who_ended_first_whatever_the_workers_clocks_say(tmp_path: Path) -> None:
    """torchrun orders failures by the seconds in their error files: rank 0 would be the root cause, with code 7."""
    job = script(
        tmp_path,
        "import json, os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "rank = os.environ['RANK']\n"
        "message = {'message': f'rank {rank}', 'extraInfo': {'py_callstack': '', 'timestamp': str(1 + int(rank))}}\n"
        "json.dump({'message': message}, open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w'))\n"
        "if rank == '1':\n"
        "    while not os.path.exists('deaf'): time.sleep(0.01)\n"
        "    open('new', 'w').write(str(os.getpid()))\n"
        "    os.rename('new', 'pid')\n"
        "    os._exit(5)\n"
        "open('deaf', 'w').close()\n"
        "while not os.path.exists('pid'): time.sleep(0.01)\n"
        "while os.path.exists('/proc/' + open('pid').read()): time.sleep(0.01)\n"
        "os._exit(7)\n",
    )
    done = launch(tmp_path, "--nproc-per-node=2", "--log-dir=logs", "--shutdown-timeout=5", job)
    assert done.returncode == 5, done.stderr
    assert [failure["rank"] for failure in failures(tmp_path) if failure["root_cause"]] == [1]
    assert "error     : rank 1" in done.stderr


def test_an_attempts_logs_are_never_wiped_by_a_later_one(tmp_path: Path) -> None:
    """torchrun's attempts are numbered by restarts used: a start that uses none wipes the logs before it."""
    job = script(tmp_path, "import os, sys; print('attempt', os.environ['RANKD_ATTEMPT'], flush=True); sys.exit(3)")
    assert launch(tmp_path, "--max-restarts=2", "--log-dir=logs", "-r1", job).returncode == 3
    logs = {path.parent.parent.name: path.read_text() for path in (tmp_path / "logs").rglob("stdout.log")}
    assert logs == {f"attempt_{attempt}": f"attempt {attempt}\n" for attempt in range(3)}


def test_what_can_never_start_is_not_started_again(tmp_path: Path) -> None:
    """torchrun restarts a program that fails at its start as often as any other (pytorch#60910)."""
    done = launch(tmp_path, "--max-restarts=3", "--log-dir=logs", "--no-python", "/not/there")
    assert done.returncode == 127
    assert len(failures(tmp_path)) == 1
