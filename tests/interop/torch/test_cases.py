"""Cases of torch's own tests that need torch itself, under ``rankd launch`` and in the library."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.launching import environment, launch, tree
from tests.interop.needed import needs_torch

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300), needs_torch]

PATIENCE = 120.0

HANGS = """
import os, signal, sys, time
from torch.distributed.elastic import timer

rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
timer.configure(timer.FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"], signal=int(sys.argv[1])))
with open(f"pid_{rank}_{attempt}", "w") as file:
    file.write(str(os.getpid()))
while not os.path.exists(f"pid_{1 - int(rank)}_{attempt}"):
    time.sleep(0.01)
with timer.expires(after=600, scope="whole"):
    while attempt == "0" and rank == "0":
        signal.pause()
    with timer.expires(after=0.3 if attempt == "0" else 600, scope="step"):
        while attempt == "0":
            signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_worker_that_hangs_in_torchs_timer_costs_one_restart_and_nobody_else(
    number: signal.Signals, tmp_path: Path
) -> None:
    """torchrun sends that signal to itself as well: with SIGKILL it ends with 137 and leaves the other worker alone in
    the world, with SIGTERM it ends with 1; either way without a restart."""
    (tmp_path / "job.py").write_text(HANGS)
    words = ("--standalone", "--nproc-per-node=2", "--max-restarts=2", "--log-dir=logs", "-r3")
    env = {"TORCHELASTIC_ENABLE_FILE_TIMER": "1"}
    done = launch(tmp_path, *words, "job.py", int(number), env=env, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "did not release the timer 'step' within 0.3 s" in done.stderr
    (run,) = (tmp_path / "logs").iterdir()
    assert sorted(str(path.relative_to(run)) for path in run.glob("*/*") if path.is_dir()) == [
        f"attempt_{attempt}/{rank}" for attempt in "01" for rank in "01"
    ]
    assert tree(tmp_path / "tmp") == [], "the pipe is gone"
    pids = [int(file.read_text()) for file in tmp_path.glob("pid_*")]
    assert len(pids) == 4
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []


def test_a_sum_over_all_ranks_is_right(tmp_path: Path) -> None:
    """By ``init_method="env://"``, with the store that rank 0 makes at the port that rankd has found."""
    (tmp_path / "job.py").write_text(
        "import json, torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.tensor(dist.get_rank())\n"
        "dist.all_reduce(total)\n"
        "with open(f'{dist.get_rank()}.json', 'w') as file:\n"
        "    json.dump([int(total), dist.get_world_size(), dist.is_torchelastic_launched()], file)\n"
        "dist.destroy_process_group()\n"
    )
    env = {"GLOO_SOCKET_IFNAME": "lo"}
    done = launch(tmp_path, "--standalone", "--nproc-per-node=3", "job.py", env=env, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    said = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert said == {rank: [0 + 1 + 2, 3, True] for rank in "012"}


def test_tensors_go_into_a_function_and_come_back(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, torch\n"
        "from supervisor import LocalElasticAgent, WorkerSpec\n"
        "def scaled(tensor):\n"
        "    return tensor * (int(os.environ['RANK']) + 1)\n"
        "if __name__ == '__main__':\n"
        "    spec = WorkerSpec('trainer', 2, entrypoint=scaled, args=(torch.arange(3),))\n"
        "    values = LocalElasticAgent(spec).run_sync().return_values\n"
        "    print({rank: value.tolist() for rank, value in values.items()})\n"
    )
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(
        command, env=environment(tmp_path), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "{0: [0, 1, 2], 1: [0, 2, 4]}\n"), done.stderr
