"""One command line under real torchrun and under ``rankd launch``: what can be told apart is told here, all of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.end_to_end.launching import COMMAND, environment, launch, tree
from tests.interop.needed import needs_torch

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300), needs_torch]

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
PATIENCE = 120.0

JOB = """
import json, os, signal, sys, time
rank, attempt = os.environ["RANK"], int(os.environ["TORCHELASTIC_RESTART_COUNT"])
with open(f"seen_{rank}_{attempt}.json", "w") as file:
    json.dump([dict(os.environ), sys.argv[1:], __name__], file)
sys.stdout.write(f"out of rank {rank}\\n")  # at once, for under -u print() writes word by word
sys.stderr.write(f"err of rank {rank}\\n")
if "fail" in sys.argv or ("recover" in sys.argv and attempt == 0):
    open(f"done_{rank}_{attempt}", "w").close()
    while rank == "1":  # and not before rank 0 is where it will be found
        if os.path.exists(f"done_0_{attempt}"):
            os._exit(3)
        time.sleep(0.01)
    signal.pause()
"""

OURS = re.compile("RANKD_")
CHOSEN = {"TORCHELASTIC_ERROR_FILE", "TMPDIR", "PWD", "OLDPWD", "_"}
"""Of these only the presence can be the same; of MASTER_PORT, too, unless the command line has it."""

KEPT_BY_US = "failures.jsonl"
SUMMARY = "=" * 60
"""How the words about a failed job begin, which each says in its own way."""

BY_TORCH = {"TORCHELASTIC_USE_AGENT_STORE"}
"""torchrun's agent is a store that all ranks connect to; without torch rank 0 makes it, which this says."""


class Seen(NamedTuple):
    """What a command line has led to."""

    code: int
    workers: dict[str, Any]
    lines: list[str]
    logs: list[str]
    filtered: dict[str, list[str]]


def run(command: tuple[str, ...], folder: Path, words: list[str], env: dict[str, str]) -> Seen:
    folder.mkdir()
    (folder / "job.py").write_text(JOB)
    done = launch(folder, *words, command=command, env=env, timeout=PATIENCE)
    lines = [line for line in (done.stdout + done.stderr.partition(SUMMARY)[0]).splitlines() if "of rank" in line]
    logs = folder / "logs"
    return Seen(
        done.returncode,
        {path.stem: worker(path, logs, words) for path in folder.glob("seen_*.json")},
        sorted(lines),
        [without_chance(path) for path in tree(logs) if not path.endswith(KEPT_BY_US)],
        {path.name: sorted(path.read_text().splitlines()) for path in logs.rglob("filtered_*.log")},
    )


def worker(file: Path, logs: Path, words: list[str]) -> Any:
    """What one start of a rank has seen, without what is chosen for each run."""
    env, *rest = json.loads(file.read_text())
    error_file = Path(logs.parent, env["TORCHELASTIC_ERROR_FILE"])
    told = {name: value for name, value in env.items() if not OURS.match(name) and name not in BY_TORCH}
    chosen = CHOSEN if "--master-port" in words else CHOSEN | {"MASTER_PORT"}
    told |= {name: "" for name in chosen if name in told}
    return [told, without_chance(str(error_file.relative_to(logs))), *rest]


def without_chance(path: str) -> str:
    """``job7_ab12cd34/attempt_0`` without what mkdtemp has chosen."""
    return re.sub("^job7_[^/]{8}", "job7", path)


LOGS = [
    "--rdzv-backend=c10d",
    "--rdzv-endpoint=localhost:0",
    "--rdzv-id=job7",
    "--local-addr=127.0.0.1",
    "--log-dir=logs",
]


@pytest.mark.parametrize(
    ("words", "env", "code"),
    [
        ([*LOGS, "--nproc-per-node=2", "job.py", "--lr", "${local_rank}", "$$", "${RANK}"], {}, 0),
        ([*LOGS, "--nproc_per_node", "3", "-r", "3", "-t", "0:1,2:2", "--role=ps", "job.py"],
         {"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "<${role_name}|$rank|${local_rank}|${unknown}> "}, 0),
        ([*LOGS, "--nproc-per-node=3", "-t3", "--local-ranks-filter=0,2", "-m", "job"], {"OMP_NUM_THREADS": "7"}, 0),
        ([*LOGS, "--nproc-per-node=3", "-t", "0:3,1:1,2:3", "--local-ranks-filter=0,1", "job.py"],
         {"PET_DUPLICATE_STDOUT_FILTERS": "rank", "PET_DUPLICATE_STDERR_FILTERS": "rank 0"}, 0),
        ([*LOGS, "--nproc-per-node=3", "-t", "3", "--duplicate-stdout-filters=rank 0,,,rank 2",
          "--duplicate-stderr-filters", "err", "job.py"], {}, 0),
        ([*LOGS, "--nproc-per-node=3", "-t3", "--local-ranks-filter=0,2", "--duplicate-stdout-filters=rank 1,rank 2",
          "--duplicate-stderr-filters=,", "job.py"], {}, 0),
        ([*LOGS, "--nproc-per-node=2", "-r1:3", "--max-restarts=1", "job.py", "recover"], {}, 0),
        ([*LOGS, "--nproc-per-node=2", "-r", "3", "job.py", "fail"], {}, 1),
        ([*LOGS, "--nproc-per-node=2", "--virtual-local-rank", "--no-python", sys.executable, "job.py"],
         {"CUDA_VISIBLE_DEVICES": "4,6"}, 0),
        ([*LOGS, "--run-path", "job.py", "x"], {"PET_NPROC_PER_NODE": "2", "PET_MAX_RESTARTS": "3"}, 0),
    ],
    ids=["plain", "prefix", "filter", "duplicates by variable", "duplicates with a comma", "duplicates of nothing",
         "restart", "failure", "virtual local rank", "run path"],
)  # fmt: skip
def test_the_same_command_line_leads_to_the_same(
    words: list[str], env: dict[str, str], code: int, tmp_path: Path
) -> None:
    """The environment and arguments of every start of every rank, the lines on the console, the log tree, the code."""
    compare(words, env, code, tmp_path)


def test_static_on_one_host_has_the_address_it_is_given(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["--master-addr=localhost", "--master-port", port, "--rdzv-id=job7", "--log-dir=logs", "job.py"]
    compare(words, {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"}, 0, tmp_path)


def compare(words: list[str], env: dict[str, str], code: int, tmp_path: Path) -> None:
    theirs = run(TORCHRUN, tmp_path / "torchrun", words, env)
    ours = run(COMMAND, tmp_path / "rankd", ["--torchrun-exit-codes", *words], env)
    assert theirs.code == code
    assert theirs.workers, "the job has run"
    assert ours == theirs


def test_a_model_trains_on_after_the_death_of_a_rank(tmp_path: Path) -> None:
    """torch's own rendezvous finds its store by what ``rankd launch`` says, in both attempts."""
    job, folder = Path(__file__).parents[1] / "ddp_job.py", tmp_path / "model"
    folder.mkdir()
    words = ("--standalone", "--nproc-per-node=2", "--max-restarts=1", job, folder)
    done = launch(tmp_path, *words, env={"GLOO_SOCKET_IFNAME": "lo"}, timeout=240)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        said = json.loads((folder / f"rank_{rank}.json").read_text())
        assert (said["launched_by_torchelastic"], said["restarts"], said["world_size"]) == (True, 1, 2)


def test_omp_num_threads_is_1_for_several_workers_if_unset(tmp_path: Path) -> None:
    words = ["--standalone", "--nproc-per-node=2", "--no-python", "/bin/sh", "-c", "echo of rank $OMP_NUM_THREADS"]
    env = environment(tmp_path)
    del env["OMP_NUM_THREADS"]
    said = [
        subprocess.run([*command, *words], env=env, capture_output=True, text=True, timeout=PATIENCE, check=True)
        for command in (TORCHRUN, COMMAND)
    ]
    assert [done.stdout for done in said] == ["of rank 1\nof rank 1\n"] * 2
    assert all("OMP_NUM_THREADS" in done.stderr for done in said)


def test_the_signal_that_stops_the_job_reaches_the_workers(tmp_path: Path) -> None:
    """torchrun ends with 1 then; rankd says which signal it was, unless torchrun's codes are asked for."""
    (tmp_path / "job.py").write_text(
        "import os, signal\n"
        "signal.signal(signal.SIGUSR1, lambda got, _: (print('got', got, flush=True), os._exit(0)))\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()\n"
    )
    words = ("--standalone", "--signals-to-handle=SIGTERM,SIGUSR1", "job.py")
    env = environment(tmp_path)
    codes = []
    for command in (TORCHRUN, COMMAND, (*COMMAND, "--torchrun-exit-codes")):
        with subprocess.Popen(
            [*command, *words], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as job:
            try:
                assert job.stdout is not None
                assert job.stdout.readline() == "up\n"
                job.send_signal(signal.SIGUSR1)
                assert job.stdout.readline() == f"got {int(signal.SIGUSR1)}\n"
                codes.append(job.wait(PATIENCE))
            finally:
                if job.poll() is None:
                    os.kill(job.pid, signal.SIGTERM)
    assert codes == [1, 128 + signal.SIGUSR1, 1]


# ---- torchelastic's own event records


def plain(record: Any) -> Any:
    """A record without what is chosen for each run, and without torch's tuples of one."""
    metadata = dict(record["metadata"])
    details = {
        key: value[0] if isinstance(value, list) else value for key, value in json.loads(metadata["metadata"]).items()
    }
    if metadata["state"] != "FAILED":  # of failures alone does torch know these two
        pid, code = details.pop("worker_pid", None), details.pop("exit_code", None)
        assert pid is None or (str(pid) == metadata["worker_id"] and code in (0, None))
    for key in ("worker_id", "hostname", "total_run_time", "duration_ms", "raw_error", "metadata"):
        assert key in metadata
        del metadata[key]
    return record["name"], record["source"], metadata, details


def records(command: tuple[str, ...], folder: Path, words: list[str]) -> list[Any]:
    folder.mkdir()
    (folder / "job.py").write_text(JOB)
    done = launch(folder, *words, command=command, timeout=PATIENCE)
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"name"')]


def test_event_records_are_torchs_with_real_timestamps_and_none_missing(tmp_path: Path) -> None:
    words = [*LOGS, "--nproc-per-node=2", "--event-log-handler=console", "job.py"]
    theirs = records(TORCHRUN, tmp_path / "torchrun", words)
    ours = records(COMMAND, tmp_path / "rankd", words)
    by_name = lambda one: (one[0], one[1], str(one[2]))  # noqa: E731
    assert sorted(map(plain, ours), key=by_name) == sorted(map(plain, theirs), key=by_name)
    assert {frozenset(one) for one in ours} == {frozenset(one) for one in theirs}
    assert {one["timestamp"] for one in theirs} == {0}
    now = time.time() * 1000
    assert all(isinstance(one["timestamp"], int) and now - 120_000 < one["timestamp"] <= now for one in ours)


def test_a_failure_that_led_to_a_restart_has_an_event_which_torch_leaves_out(tmp_path: Path) -> None:
    words = [*LOGS, "--nproc-per-node=2", "--max-restarts=1", "--event-log-handler=console", "job.py", "recover"]
    failed = {}
    for name, command in (("torchrun", TORCHRUN), ("rankd", COMMAND)):
        told = [plain(record) for record in records(command, tmp_path / name, words)]
        failed[name] = [(event, details["exit_code"]) for event, _, _, details in told if event.endswith("FAILED")]
    assert failed == {"torchrun": [], "rankd": [("torchelastic.worker.status.FAILED", 3)]}
