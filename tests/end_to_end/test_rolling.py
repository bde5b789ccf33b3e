"""A reload replaces the workers of a serving group a few at a time; what stays serves."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end.configs import group, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import Rankd

pytestmark = pytest.mark.end_to_end

SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if os.environ["RELEASE"] == "bad": sys.exit(78)
open(os.environ["SEEN"] + "/" + os.environ["RANK"] + "-" + os.environ["RELEASE"], "w").write(os.environ["WORLD_SIZE"])
while True: signal.pause()
"""


def serving(seen: Path, release: str, workers: int = 4, **restart: str) -> str:
    return table("health", listen=["127.0.0.1:0"]) + group(
        "web",
        python(SCRIPT),
        workers=workers,
        env={"RELEASE": release, "SEEN": str(seen)},
        restart={"scope": "worker", "policy": "always", "fatal_exit_codes": [78], **restart},
        probe={"exec": ["sh", "-c", f"test -e {seen}/$RANK-$RELEASE"], "interval": "100ms"},
    )


def reload(daemon: Rankd, text: str) -> None:
    (daemon.directory / "rankd.toml").write_text(text)
    daemon.signal(signal.SIGHUP)


def test_two_at_a_time_are_drained_stopped_and_replaced_while_the_group_stays_ready(
    rankd: Start, tmp_path: Path
) -> None:
    def release(name: str) -> str:
        return serving(tmp_path, name, max_unavailable="50%", drain="300ms")

    daemon = rankd(release("one"))
    daemon.until("/readyz/web", 200)
    reload(daemon, release("two"))
    daemon.until("/readyz/web/0", 503)
    reply = daemon.http("/readyz/web/3")
    assert (reply.status, daemon.http("/readyz").status) == (200, 200)
    done = daemon.wait_for("group.rolling", over=True)
    assert (done["replaced"], done["workers"], done["halted"]) == (4, 4, False)
    daemon.until("/readyz/web/0", 200)
    names = [(record["event"], record["local_rank"]) for record in daemon.records if "local_rank" in record]
    told = [one for one in names if one[0] in ("worker.stopping", "worker.ready")]
    rolled = told[[name for name, _ in told].index("worker.stopping") :]
    assert {rank for _, rank in rolled[:2]} == {0, 1}, "two were taken"
    for place, (name, _) in enumerate(rolled):
        stopped = sum(one == "worker.stopping" for one, _ in rolled[: place + 1])
        assert name != "worker.stopping" or stopped - (place + 1 - stopped) <= 2
    assert sorted(path.name for path in tmp_path.glob("*-two")) == [f"{rank}-two" for rank in range(4)]
    assert all(record["by"] == "daemon" for record in daemon.all("worker.exited"))
    assert not daemon.all("group.degraded")
    assert not daemon.all("group.restarting")
    assert daemon.http("/status").json["groups"]["web"]["restarts"] == 0
    assert daemon.stop() == 0


def test_a_release_that_cannot_run_costs_one_worker_and_going_back_heals_it(rankd: Start, tmp_path: Path) -> None:
    daemon = rankd(serving(tmp_path, "good"))
    daemon.until("/readyz", 200)
    reload(daemon, serving(tmp_path, "bad"))
    told = daemon.wait_for("group.rolling", halted=True)
    assert (told["level"], told["over"], "exit code 78 is fatal" in told["reason"]) == ("error", True, True)
    assert daemon.http("/readyz").status == 200
    assert [daemon.http(f"/readyz/web/{rank}").status for rank in range(4)] == [503, 200, 200, 200]
    (tmp_path / "0-good").unlink()
    reload(daemon, serving(tmp_path, "good"))
    daemon.wait_for("group.rolling", over=True, halted=False)
    assert len(daemon.all("worker.started")) == 4 + 1 + 1
    daemon.until("/readyz/web/0", 200)
    assert daemon.stop() == 0


def test_more_workers_start_beside_the_others_and_fewer_leave_from_the_top(rankd: Start, tmp_path: Path) -> None:
    daemon = rankd(serving(tmp_path, "one", 2))
    daemon.until("/readyz", 200)
    reload(daemon, serving(tmp_path, "one", 3))
    daemon.wait_for("group.rolling", over=True, workers=3)
    assert (tmp_path / "2-one").read_text() == "3"
    assert daemon.http("/readyz/web/2").status == 200
    reload(daemon, serving(tmp_path, "one", 1))
    daemon.wait_for("group.rolling", over=True, workers=1)
    assert sorted(record["rank"] for record in daemon.all("worker.exited")) == [1, 2]
    assert daemon.http("/readyz/web/2").status == 404
    assert daemon.http("/readyz").status == 200
    assert daemon.stop() == 0


def test_a_stop_in_the_midst_of_it_is_as_quick_as_at_any_other_time(rankd: Start, tmp_path: Path) -> None:
    daemon = rankd(serving(tmp_path, "one", drain="1h"))
    daemon.until("/readyz", 200)
    reload(daemon, serving(tmp_path, "two", drain="1h"))
    daemon.until("/readyz/web/0", 503)
    began_at = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began_at < 30
    assert daemon.all("group.rolling", halted=True)
