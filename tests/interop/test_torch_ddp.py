"""A real model under torch's DistributedDataParallel: one rank dies, all restart, training goes on where it was."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.end_to_end.configs import group, ladder, table
from tests.end_to_end.conftest import Start
from tests.interop.needed import needs_torch
from tests.ports import free_port

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300), needs_torch]

JOB = Path(__file__).parent / "ddp_job.py"
STEPS, DIES_AT, SAVED_AT = 40, 23, 20


def losses_in(log: Path) -> dict[int, float]:
    """What rank 0 has printed: the mean loss by step."""
    return {
        int(step): float(loss) for step, loss in re.findall(r"^step (\d+) loss (\S+)$", log.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize(("how", "by"), [("dies", "outside"), ("hangs", "timer")])
def test_training_survives_the_death_of_a_rank_and_its_hang(rankd: Start, tmp_path: Path, how: str, by: str) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    command = [sys.executable, "-u", str(JOB), str(folder), how]
    # gloo names the peers' addresses by the host's name, which need not resolve on a build machine.
    daemon = rankd(
        table("daemon", run_id="ddp")
        + group("trainer", command, workers=2, stop=ladder("10s"), env={"GLOO_SOCKET_IFNAME": "lo"})
    )
    assert daemon.wait(timeout=240) == 0, daemon.story()

    failed = daemon.wait_for("worker.failed", rank=1, attempt=0, signal="SIGKILL", root_cause=True)
    assert failed["by"] == by
    if how == "hangs":
        assert "did not release the timer 'step' within 1.0 s" in failed["reason"]
        evidence = Path(failed["evidence"]).read_text()
        assert all(
            f"rank {rank}:\n  {daemon.wait_for('worker.started', rank=rank)['pid']}: " in evidence for rank in (0, 1)
        )
    assert len(daemon.all("timer.expired")) == (how == "hangs")
    assert not daemon.all("timer.refused")
    assert len(daemon.all("worker.failed")) == 1, "rank 0's error is a consequence, not another failure"
    daemon.wait_for("group.restarting", group="trainer")
    daemon.wait_for("group.succeeded", group="trainer", restarts=1, attempt=1)

    said = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(2)]
    for one in said:
        assert one["launched_by_torchelastic"] is True
        assert one["agent_store"] == "False"
        assert (one["restarts"], one["world_size"], one["begun_at"]) == (1, 2, SAVED_AT)
    assert said[0]["losses"] == said[1]["losses"]
    (checksum,) = {one for rank in said for one in rank["checksums"]}
    assert checksum == checksum, "not a number"  # noqa: PLR0124 - NaN is what this looks for

    first, second = (losses_in(daemon.log("trainer", attempt, 0)) for attempt in range(2))
    assert list(first) == list(range(1, DIES_AT))
    assert list(second) == list(range(SAVED_AT + 1, STEPS + 1))
    for step in range(SAVED_AT + 1, DIES_AT):
        assert second[step] == pytest.approx(first[step], abs=1e-5), "it did not resume from its checkpoint"
    assert second[STEPS] < first[SAVED_AT] < first[1] / 2


def test_two_static_hosts_train_one_model_and_both_come_back(rankd: Start, tmp_path: Path) -> None:
    """Rank 1 dies; rank 0 on the other host learns of it from gloo alone, fails as well, and both resume together."""
    folder = tmp_path / "job"
    folder.mkdir()
    port = free_port()
    daemons = [
        rankd(
            table("daemon", run_id="ddp", node_id=f"host-{number}")
            + table("rendezvous", backend="static")
            + group("trainer", [sys.executable, "-u", str(JOB), str(folder)], env={"GLOO_SOCKET_IFNAME": "lo"})
            + table("groups.trainer.rendezvous", nodes=2, node_rank=number, master_addr="127.0.0.1", master_port=port)
        )
        for number in range(2)
    ]
    assert [daemon.wait(timeout=240) for daemon in daemons] == [0, 0]
    daemons[1].wait_for("worker.failed", rank=1, signal="SIGKILL", root_cause=True)
    said = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert [(one["restarts"], one["world_size"], one["begun_at"]) for one in said] == [(1, 2, SAVED_AT)] * 2
    assert said[0]["losses"] == said[1]["losses"]
