"""Error files go between torch and rankd in both directions, each with what the other has written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.core.messages import ErrorReport
from supervisor.host import error_file
from tests.end_to_end.configs import group, ladder, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import ROOT
from tests.interop.needed import needs_torch

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(200), needs_torch]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
BOOM = """
import os, signal
from {record_from} import record
@record
def main():
    if os.environ["RANK"] == "1":
        raise RuntimeError("boom rank 1")
    signal.pause()
main()
"""


def script(folder: Path, record_from: str) -> str:
    path = folder / "job.py"
    path.write_text(BOOM.format(record_from=record_from))
    return str(path)


BOTH = """
import json, os, sys
from supervisor.worker import record as ours
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure, record as theirs
def divide_by_zero():
    return 1 / 0
seen = {}
for name, record in ("ours", ours), ("theirs", theirs):
    path = os.environ["TORCHELASTIC_ERROR_FILE"] = os.path.join(sys.argv[1], name)
    try:
        record(divide_by_zero)()
    except ZeroDivisionError:
        failure = ProcessFailure(local_rank=0, pid=4711, exitcode=1, error_file=path)
        seen[name] = [failure.message, failure.timestamp]
print(json.dumps(seen))
"""


def test_record_writes_what_torchs_own_writes_and_each_side_reads_the_others(tmp_path: Path) -> None:
    """The same but for the instant, and for the line of the decorator itself."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", BOTH, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    shapes = []
    for name in ("ours", "theirs"):
        data = json.loads((tmp_path / name).read_text())
        info = data["message"]["extraInfo"]
        assert seen[name] == [data["message"], int(info["timestamp"])]
        assert error_file.read(str(tmp_path / name)) == ErrorReport(
            "ZeroDivisionError: division by zero", info["py_callstack"], int(info["timestamp"])
        )
        lines = info.pop("py_callstack").splitlines()
        assert isinstance(info.pop("timestamp"), str)
        assert (lines[0], lines[-1]) == (
            "Traceback (most recent call last):", "ZeroDivisionError: division by zero"
        )  # fmt: skip
        assert [line for line in lines if "in divide_by_zero" in line]
        shapes.append(data)
    assert shapes[0] == shapes[1] == {"message": {"message": "ZeroDivisionError: division by zero", "extraInfo": {}}}


def test_the_exception_of_a_torch_worker_is_in_the_record_of_its_failure(rankd: Start, tmp_path: Path) -> None:
    job = script(tmp_path, "torch.distributed.elastic.multiprocessing.errors")
    daemon = rankd(
        group("job", [sys.executable, job], workers=2, restart={"max_restarts": 0}, stop=ladder("20s")),
    )
    assert daemon.wait(timeout=100) == 1
    failed = daemon.wait_for("worker.failed", rank=1)
    assert failed["error"] == "RuntimeError: boom rank 1"
    assert 'raise RuntimeError("boom rank 1")' in failed["traceback"]
    assert "  error     : RuntimeError: boom rank 1" in daemon.console


def test_torchrun_below_rankd_hands_its_root_cause_up(rankd: Start, tmp_path: Path) -> None:
    job = script(tmp_path, "torch.distributed.elastic.multiprocessing.errors")
    daemon = rankd(group("job", [*TORCHRUN, job], restart={"max_restarts": 0}, stop=ladder("20s")))
    assert daemon.wait(timeout=150) == 1
    assert daemon.wait_for("worker.failed")["error"] == "RuntimeError: boom rank 1"


def test_rankd_below_torchrun_hands_its_root_cause_up(tmp_path: Path) -> None:
    """Twice over: of the worker's own words, and, for one that died without any, of ours. torchrun shows both."""
    crash = [sys.executable, "-S", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    for name, command, words in (
        ("boom", [sys.executable, script(tmp_path, "supervisor.worker")], 'raise RuntimeError("boom rank 1")'),
        ("crash", crash, "was killed by SIGSEGV"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        config = folder / "rankd.toml"
        config.write_text(
            table("health", listen=[])
            + table("daemon", state_dir=str(folder / "state"), runtime_dir=str(folder / "run"))
            + group("job", command, workers=2, restart={"max_restarts": 0}, stop=ladder("10s"))
        )
        own = folder / "torchrun.json"
        ran = subprocess.run(
            [*TORCHRUN[:-1], "1", "--log-dir", str(folder / "logs"), "-m", "supervisor", "run", str(config)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "TORCHELASTIC_ERROR_FILE": str(own)},
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert ran.returncode == 1, ran.stderr
        assert words in ran.stderr[ran.stderr.rindex("Root Cause (first observed failure)") :], ran.stderr
        message = json.loads(own.read_text())["message"]
        assert words in message["message"] + message["extraInfo"]["py_callstack"]
