"""A daemon is no bigger for having restarted its worker ten times as often.

``RESTARTS=n`` in the environment sets how often (100,000 is the full size, and takes about a quarter of an hour).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.end_to_end.configs import group, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import Rankd, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

RESTARTS = int(os.environ.get("RESTARTS", "3000"))
A_RESTART = 0.1
"""Seconds that one may take at most, on a machine with other things to do."""

GROWTH_KIB = 512
"""What the allocator may come to in the time between, whatever the number of restarts."""


def size(daemon: Rankd) -> tuple[int, int]:
    """Its memory in KiB (proc_pid_status(5), RssAnon: what is not shared with files), and its open descriptors."""
    process = Path(f"/proc/{daemon.process.pid}")
    return int((process / "status").read_text().partition("RssAnon:")[2].split()[0]), len(
        list((process / "fd").iterdir())
    )


PASSING = 20
"""Descriptors that two workers have while one ends and one starts: the moment of counting is any."""


@pytest.mark.timeout(60 + RESTARTS * A_RESTART)
def test_restarts_without_end_cost_neither_memory_nor_descriptors(rankd: Start) -> None:
    restart = {"policy": "always", "max_restarts": -1, "backoff": {"initial": "0s"}}
    daemon = rankd(
        table("log", level="error") + table("health", listen=[]) + group("job", ["/bin/true"], restart=restart)
    )
    logs = daemon.directory / "state/logs/job"

    def attempt(number: int) -> bool:
        return any(run.joinpath(f"attempt_{number}").exists() for run in logs.glob("*"))

    until(lambda: attempt(RESTARTS // 10), "first tenth", RESTARTS * A_RESTART)
    memory, fds = size(daemon)
    until(lambda: attempt(RESTARTS), "last restart", RESTARTS * A_RESTART)
    memory_then, fds_then = size(daemon)
    print(f"after {RESTARTS // 10}: {memory} KiB, {fds} descriptors; after {RESTARTS}: {memory_then} KiB, {fds_then}")
    assert memory_then - memory < GROWTH_KIB
    assert abs(fds_then - fds) <= PASSING
    assert daemon.stop() == 0
