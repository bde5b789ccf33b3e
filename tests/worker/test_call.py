"""A function as a worker: found by its name, called in a fresh interpreter, its return value kept as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.worker import call

JOB = """
import json, os, sys

class Trainer:
    @staticmethod
    def run(*args, **kwargs):
        return {"args": args, "kwargs": kwargs, "argv": sys.argv, "here": sys.path[0]}

def leave(code):
    sys.exit(code)

def fail():
    raise KeyError("lost")

def give(text):
    return eval(text)
"""


def run(folder: Path, target: str, *args: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """The function of the module ``job`` in a process of its own; its files are in ``folder``."""
    (folder / "job.py").write_text(JOB)
    files = {"RANKD_RETURN_FILE": str(folder / "return.json"), "TORCHELASTIC_ERROR_FILE": str(folder / "error.json")}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | files
    return subprocess.run(
        [sys.executable, "-u", call.__file__, f"job:{target}", json.dumps({"args": args, "kwargs": kwargs})],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=45, check=False,
    )  # fmt: skip


def returned(folder: Path) -> Any:
    return json.loads((folder / "return.json").read_text())


def test_a_function_gets_its_arguments_and_what_it_returns_is_kept(tmp_path: Path) -> None:
    done = run(tmp_path, "Trainer.run", 1, "${RANK}", [0.5, None], lr={"a": True})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert returned(tmp_path)["value"] == {
        "args": [1, "${RANK}", [0.5, None]],
        "kwargs": {"lr": {"a": True}},
        "argv": [str(tmp_path / "job.py")],
        "here": str(tmp_path),
    }


def test_an_exception_is_in_the_error_file_and_ends_the_worker(tmp_path: Path) -> None:
    done = run(tmp_path, "fail")
    assert (done.returncode, "KeyError: 'lost'" in done.stderr) == (1, True)
    assert json.loads((tmp_path / "error.json").read_text())["message"]["message"] == "KeyError: 'lost'"
    assert not (tmp_path / "return.json").exists()


@pytest.mark.parametrize(("target", "words"), [("gone", "has no attribute 'gone'"), ("Trainer.gone", "no attribute")])
def test_a_function_that_is_not_there_is_an_error_with_a_file(tmp_path: Path, target: str, words: str) -> None:
    assert run(tmp_path, target).returncode == 1
    assert words in json.loads((tmp_path / "error.json").read_text())["message"]["message"]


def test_a_function_may_exit(tmp_path: Path) -> None:
    assert run(tmp_path, "leave", 7).returncode == 7
    assert not (tmp_path / "return.json").exists()
    assert run(tmp_path, "leave", 0).returncode == 0
    assert returned(tmp_path) == {"value": None}


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("{1, 2}", "the return value is no JSON: Object of type set is not JSON serializable"),
        ("float('nan')", "the return value is no JSON: Out of range float values are not JSON compliant"),
        ("'x' * 65536", "the return value has 65538 bytes as JSON; at most 65536 are kept"),
    ],
)
def test_a_value_that_cannot_be_kept_is_said_and_is_no_failure(tmp_path: Path, text: str, note: str) -> None:
    done = run(tmp_path, "give", text)
    assert done.returncode == 0
    assert returned(tmp_path)["note"].startswith(note)
    assert done.stderr.startswith(f"supervisor.worker: {note}")


def test_a_directory_that_takes_no_file_is_said_and_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "return.json").mkdir()
    done = run(tmp_path, "give", "1")
    assert (done.returncode, "cannot be written to" in done.stderr) == (0, True)
