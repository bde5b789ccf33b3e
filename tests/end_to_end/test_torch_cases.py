"""Behaviour that torch's own tests ask of its agent and its process contexts, asked of ``rankd launch``.

tests/interop/torch/README.md says which of torch's cases is which test here, or elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.end_to_end.launching import launch

pytestmark = pytest.mark.end_to_end


def script(folder: Path, text: str) -> Path:
    path = folder / "job.py"
    path.write_text(text)
    return path


def test_workers_may_end_one_after_the_other(tmp_path: Path) -> None:
    """local_elastic_agent_test, workers_drift_success: who is early waits for nobody, who is late is not stopped."""
    job = script(
        tmp_path,
        "import os, sys, time\n"
        "rank = int(os.environ['RANK'])\n"
        "while rank and not os.path.exists(f'done{rank - 1}'): time.sleep(0.01)\n"
        "sys.stdout.write(f'{rank}\\n')\n"
        "open(f'done{rank}', 'w').close()\n",
    )
    done = launch(tmp_path, "--nproc-per-node=4", job)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "1", "2", "3"]), done.stderr


def test_an_exit_code_is_kept_and_only_the_selected_rank_is_redirected(tmp_path: Path) -> None:
    """multiprocessing/api_test, test_binary_exit: 138, no error data, rank 0's stdout in its file, rank 1's not."""
    words = ("--nproc-per-node=2", "--log-dir=logs", "-r", "0:1", "--no-python", "/bin/sh", "-c")
    done = launch(tmp_path, *words, "echo rank $RANK; exit 138")
    assert done.returncode == 138
    (file,) = (tmp_path / "logs").rglob("stdout.log")
    assert (file.parent.name, file.read_text()) == ("0", "rank 0\n")
    assert set(done.stdout.splitlines()) <= {"rank 1"}
    assert not list((tmp_path / "logs").rglob("error.json"))


def test_a_large_output_and_a_slow_reader_are_no_deadlock(tmp_path: Path) -> None:
    """multiprocessing/api_test, test_function_large_ret_val: four times 10 MB, here on stdout."""
    text = "import sys; sys.stdout.write('x' * 10_000_000 + '\\n')"
    done = launch(tmp_path, "--nproc-per-node=4", "--log-dir=logs", "-r1", script(tmp_path, text))
    assert done.returncode == 0, done.stderr
    assert [file.stat().st_size for file in (tmp_path / "logs").rglob("stdout.log")] == [10_000_001] * 4


def test_ranks_without_a_map_entry_are_left_alone_and_maps_may_differ(tmp_path: Path) -> None:
    """multiprocessing/api_test, test_binary_redirect_and_tee: per rank, a stream redirected, teed, both or neither."""
    job = script(
        tmp_path,
        "import os, sys\n"
        "sys.stdout.write(f'out {os.environ[\"RANK\"]}\\n')\n"
        "sys.stderr.write(f'err {os.environ[\"RANK\"]}\\n')\n",
    )
    done = launch(tmp_path, "--nproc-per-node=3", "--log-dir=logs", "-r", "0:1,1:2", "-t", "0:2", job)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["out 1", "out 2"]
    assert sorted(done.stderr.splitlines()) == ["[default0]:err 0", "err 2"]
    files = {f"{file.parent.name}/{file.name}": file.read_text() for file in (tmp_path / "logs").rglob("*.log")}
    assert files == {"0/stdout.log": "out 0\n", "0/stderr.log": "err 0\n", "1/stderr.log": "err 1\n"}


def test_the_interpreter_may_be_another_one(tmp_path: Path) -> None:
    """run.py, PYTHON_EXEC."""
    job = script(tmp_path, "import sys; print(sys.flags.dont_write_bytecode, sys.argv[1:])")
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -B "$@"\n')
    wrapper.chmod(0o755)
    assert launch(tmp_path, job, "x", env={"PYTHON_EXEC": str(wrapper)}).stdout == "1 ['x']\n"
