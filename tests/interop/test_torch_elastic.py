"""A real DistributedDataParallel job on hosts that come and go: it grows, shrinks, and goes on where it was."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Start
from tests.end_to_end.hosts import Hosts, answers, formed
from tests.end_to_end.rankd import Rankd, until
from tests.interop.needed import needs_torch
from tests.peers.etcd import Etcd, needs_etcd

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300), needs_etcd, needs_torch]

JOB = Path(__file__).parent / "elastic_job.py"


def test_a_job_grows_from_two_hosts_to_three_and_shrinks_again(
    rankd: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    etcd = Etcd(tmp_path)
    etcd.start()
    answers(etcd)
    try:
        hosts = Hosts(rankd, etcd, "elastic")
        command = [sys.executable, "-u", str(JOB), str(tmp_path)]
        first, second = (hosts.start(name, command) for name in "12")
        steps = [trained(first, 2, 1)]
        third = hosts.start("3", command)
        steps.append(trained(first, 3, 1))
        third.signal(signal.SIGKILL)
        formed(first, 2, count=2)
        steps.append(trained(first, 2, count=2))
        (tmp_path / "enough").touch()
        assert [one.wait(60) for one in (first, second)] == [0, 0]
    finally:
        etcd.stop()
    assert steps == sorted(steps), "it trains on where it was"
    assert steps[0] < steps[1] < steps[2]
    said = [(tmp_path / f"rank_{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith("2 ")
    first.wait_for("group.succeeded", restarts=0)


def trained(host: Rankd, ranks: int, count: int) -> int:
    """The step at which the ``count``-th world of so many ranks is seen to train, by the host of rank 0."""
    path = host.log("job", formed(host, ranks, count)["attempt"], 0)
    words = re.compile(rf"{ranks} ranks, step (\d+)")
    return int(until(lambda: words.search(path.read_text()), words.pattern, 60.0)[1])
