"""``rankd restart GROUP:RANK``: one worker of a service is replaced, and the others and /readyz notice nothing."""

from __future__ import annotations

import os
import signal

import pytest

from tests.end_to_end.configs import SLEEP, group
from tests.end_to_end.conftest import Start
from tests.end_to_end.verbs import ask, pids

pytestmark = pytest.mark.end_to_end

SERVES = {"scope": "worker", "policy": "always", "backoff": {"initial": "50s", "jitter": 0}}


def test_one_worker_of_a_service_is_replaced_alone(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=3, restart=SERVES))
    daemon.wait_for("group.ready")
    before = pids(daemon)
    assert ask(daemon, "restart", "job:1", "--wait") == (0, "rank 1 of group job is ready\n", "")
    after = pids(daemon)
    assert after[1] not in before.values()
    assert (after[0], after[2]) == (before[0], before[2])
    assert daemon.wait_for("control.command")["details"] == "rank 1"
    assert not daemon.all("group.degraded")
    assert not daemon.all("group.restarting")


def test_one_that_waits_to_restart_is_started_at_once(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2, restart=SERVES))
    daemon.wait_for("group.ready")
    victim = pids(daemon)[1]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    daemon.wait_for("group.restarting", rank=1)
    assert ask(daemon, "start", "job:1", "--wait") == (0, "rank 1 of group job is ready\n", "")


def test_of_a_gang_and_of_ranks_that_are_not_it_is_refused_in_a_sentence(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2) + group("web", SLEEP, restart=SERVES))
    daemon.wait_for("group.ready", group="web")
    assert ask(daemon, "restart", "job:1")[::2] == (
        1, "rankd: the workers of group job need each other: all of them restart (restart.scope)\n",
    )  # fmt: skip
    assert "group web has no rank 1" in ask(daemon, "start", "web:1")[2]
    assert ask(daemon, "stop", "web:0")[0] == 64
