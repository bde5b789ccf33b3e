"""The process of somebody else's class: whatever it does there, it is bounded in time, and gone in the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.launch import logs_class
from supervisor.launch.logs_class import LogsClass
from supervisor.launch.refused import WrongUsage
from supervisor.plan import Places
from tests.end_to_end.rankd import ROOT

SPECS = """
import time, types
class Specs:
    def __init__(self, log_dir, redirects, tee, local_ranks_filter):
        time.sleep(1000 if log_dir == "never" else 0)
    def reify(self, envs):
        time.sleep(1000 if "HANGS" in envs[0] else 0)
        return types.SimpleNamespace(stdouts={rank: "out" for rank in envs})
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "somebody_elses-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: somebody-elses\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[torchrun.logs_specs]\nmine = somebody_elses:Specs\n")
    (tmp_path / "somebody_elses.py").write_text(SPECS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.chdir(tmp_path)


def test_of_a_thousand_workers_with_many_variables_each_is_placed(tmp_path: Path) -> None:
    env = {f"NAME_{number}": "x" * 100 for number in range(20)}
    with LogsClass("mine", None, "0", "0", ()) as specs:
        places = specs.places(dict.fromkeys(range(1000), env))
    assert len(places) == 1000
    assert places[999] == Places(f"{tmp_path}/out", "", env={})


def test_who_does_not_answer_in_time_never_will(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_class, "ANSWERS_WITHIN", 0.2)
    with LogsClass("mine", "logs", "0", "0", ()) as specs:
        with pytest.raises(OSError, match=r"--logs-specs mine: no answer within 0\.2 s"):
            specs.places({0: {"HANGS": "1"}})
        with pytest.raises(OSError, match="its process has ended with signal 9"):
            specs.places({0: {}})
    with pytest.raises(ProcessLookupError):
        os.kill(specs.pid, 0)


def test_a_class_that_is_never_made_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_class, "MADE_WITHIN", 0.2)
    with pytest.raises(WrongUsage, match=r"--logs-specs mine: no answer within 0\.2 s"):
        LogsClass("mine", "never", "0", "0", ())
