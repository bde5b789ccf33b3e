"""py-spy says where each rank of a hung group is, before any is ended."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.end_to_end.configs import group, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import ROOT

PY_SPY = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin") or ""
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not PY_SPY, reason="needs py-spy: .venv/bin/python -m pip install py-spy"),
]

HANGS = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from supervisor.worker import heartbeat
def waits_for_its_peer():
    signal.pause()
def holds_all_up():
    heartbeat()
    signal.pause()
holds_all_up() if os.environ["RANK"] == "1" else waits_for_its_peer()
"""


def test_the_stack_of_every_rank_is_in_the_evidence(rankd: Start) -> None:
    dump = {"command": [PY_SPY, "dump", "--nonblocking", "--pid", "${pid}"], "wait": "20s"}
    rules = {"start_timeout": "60s", "heartbeat": "500ms", "dump": dump}
    restart = {"max_restarts": 0}
    stop = {"ladder": [{"signal": "SIGKILL", "wait": "5s"}]}
    daemon = rankd(group("job", python(HANGS), workers=3, watchdog=rules, restart=restart, stop=stop))
    assert daemon.wait() == 137
    failed = daemon.wait_for("worker.failed", root_cause=True)
    assert failed["rank"] == 1
    _, _, stacks = Path(failed["evidence"]).read_text().partition("says of them:\n")
    told = {part[0]: part for part in stacks.split("rank ")[1:4]}
    assert "holds_all_up (<string>:" in told["1"]
    for rank in "02":
        assert "waits_for_its_peer (<string>:" in told[rank]
