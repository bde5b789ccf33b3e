"""Functions under the daemon: return values in the group's success and in /status, exceptions as failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.configs import group, table
from tests.end_to_end.conftest import Start

pytestmark = pytest.mark.end_to_end

JOB = """
import os

def rank(offset, *, name):
    return {"rank": int(os.environ["RANK"]) + offset, "name": name}

def boom():
    raise ValueError("no luck")
"""


def test_return_values_are_told_by_rank(rankd: Start, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    daemon = rankd(
        table("daemon", when_done="stay")
        + table("groups.f", function="job:rank", args=[10], kwargs={"name": "${RANK}"}, workers=3, cwd=str(tmp_path)),
    )
    values = {str(rank): {"rank": rank + 10, "name": "${RANK}"} for rank in range(3)}
    assert daemon.wait_for("group.succeeded")["return_values"] == values
    assert daemon.http("/status").json["groups"]["f"]["return_values"] == values
    kept = daemon.log("f", 0, 2).parent / "return.json"
    assert json.loads(kept.read_text()) == {"value": values["2"]}


def test_an_exception_in_a_function_is_the_root_cause(rankd: Start, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    daemon = rankd(table("groups.f", function="job:boom", cwd=str(tmp_path)) + "restart.max_restarts = 0\n")
    assert daemon.wait() == 1
    failed = daemon.wait_for("worker.failed")
    assert failed["error"] == "ValueError: no luck"
    assert "in boom" in failed["traceback"]


def test_a_command_has_no_return_file(rankd: Start, tmp_path: Path) -> None:
    """Nor does it get that of an outer rankd."""
    daemon = rankd(
        group("g", ["sh", "-c", 'echo "<$RANKD_RETURN_FILE>"']), env={"RANKD_RETURN_FILE": str(tmp_path / "x")}
    )
    assert daemon.wait() == 0
    assert daemon.log("g", 0, 0).read_text() == "<>\n"
