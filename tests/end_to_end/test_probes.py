"""Workers whose probes decide whether they are ready, and whether they live."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.configs import group, ladder, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import until

pytestmark = pytest.mark.end_to_end

SERVES = """
import http.server, os, sys

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        sick = os.path.exists(f"{sys.argv[1]}/sick-{os.environ['RANK']}-{os.environ['RANKD_ATTEMPT']}")
        self.send_response(503 if sick else 200)
        self.end_headers()
        self.wfile.write(b"x" * 20000)

address = "127.0.0.1" + os.environ["RANK"], int(os.environ["MASTER_PORT"])
http.server.HTTPServer(address, Health).serve_forever()
"""
"""Each rank has an address of its own; a file says which of them is sick in which attempt."""

ASKED = {"http": "http://127.0.0.1${RANK}:${MASTER_PORT}/health", "interval": "100ms", "timeout": "10s", "fall": 2}


def serving(
    marks: Path, workers: int = 1, *, liveness: bool = False, scope: str = "group", start_timeout: str = "0s"
) -> str:
    return group(
        "web", python(SERVES, str(marks)), workers=workers, probe=ASKED | {"liveness": liveness},
        watchdog={"start_timeout": start_timeout}, restart={"scope": scope}, stop=ladder("5s"),
    )  # fmt: skip


def test_a_group_is_ready_when_its_probes_say_so_and_only_as_long(rankd: Start, tmp_path: Path) -> None:
    daemon = rankd(serving(tmp_path, workers=2))
    daemon.wait_for("group.ready")
    assert {record["rank"] for record in daemon.all("worker.ready", source="probe")} == {0, 1}
    daemon.until("/readyz", 200)
    (tmp_path / "sick-1-0").touch()
    daemon.wait_for("worker.unready", rank=1, reason="status 503 Service Unavailable")
    daemon.wait_for("group.degraded", ready=1, workers=2)
    unready = daemon.until("/readyz/web", 503)
    assert "rank 1 is not ready: status 503" in unready.text
    seen = daemon.http("/status").json["groups"]["web"]
    assert [(worker["state"], worker["why"]) for worker in seen["workers"]] == [
        ("ready", ""),
        ("unready", "status 503 Service Unavailable"),
    ]
    assert 'rankd_workers{group="web",state="unready"} 1.0' in daemon.http("/metrics").text.splitlines()
    (tmp_path / "sick-1-0").unlink()
    daemon.wait_for("group.ready", count=2)
    assert daemon.all("worker.exited") == []
    assert daemon.stop() == 0


def test_a_worker_that_fails_its_liveness_probe_is_restarted_alone(rankd: Start, tmp_path: Path) -> None:
    daemon = rankd(serving(tmp_path, workers=2, liveness=True, scope="worker"))
    daemon.wait_for("group.ready")
    (tmp_path / "sick-0-0").touch()
    daemon.wait_for("worker.probe_failed", rank=0, by="probe", signal="SIGTERM")
    assert daemon.wait_for("worker.exited", rank=0)["by"] == "probe"
    failed = daemon.wait_for("worker.failed", rank=0)
    assert failed["root_cause"]
    assert failed["reason"].startswith(
        "failed its probe (status 503 Service Unavailable) and was killed by SIGTERM after"
    )
    daemon.wait_for("group.ready", count=2)
    assert len(daemon.all("worker.started")) == 3
    assert 'rankd_restarts_total{group="web",reason="probe"} 1.0' in daemon.http("/metrics").text.splitlines()
    assert daemon.stop() == 0


def test_the_first_good_answer_keeps_the_time_to_start_and_whoever_gives_none_in_time_has_failed(
    rankd: Start, tmp_path: Path
) -> None:
    (tmp_path / "sick-1-0").touch()
    daemon = rankd(serving(tmp_path, workers=2, scope="worker", start_timeout="3s"))
    failed = daemon.wait_for("worker.failed")
    assert (failed["rank"], failed["by"]) == (1, "heartbeat")
    assert failed["reason"].startswith("was not ready within 3 s of its start and was killed by SIGKILL after")
    daemon.wait_for("group.ready")
    assert [record["rank"] for record in daemon.all("worker.exited")] == [1]
    assert daemon.stop() == 0


def test_a_worker_that_is_stopped_in_its_tracks_is_found_and_ended(rankd: Start, tmp_path: Path) -> None:
    """A hung worker takes connections, as the kernel does that for it, and answers nothing."""
    probe = ASKED | {"timeout": "200ms", "liveness": True}
    daemon = rankd(group("web", python(SERVES, str(tmp_path)), probe=probe, stop=ladder("5s")))
    daemon.wait_for("group.ready")
    os.kill(daemon.wait_for("worker.started")["pid"], signal.SIGSTOP)
    assert daemon.wait_for("worker.probe_failed")["reason"] == "no answer within 0.2 s"
    daemon.wait_for("group.ready", count=2)
    assert daemon.stop() == 0


def test_a_command_is_asked_contained_and_quoted(rankd: Start, tmp_path: Path) -> None:
    """It leaves a child in a session of its own each time; at the end nothing of it is there."""
    script = f"""
    setsid sleep 1000 &
    echo rank $RANK in attempt $RANKD_ATTEMPT
    test -e {tmp_path}/well
    """
    probe = {"exec": ["sh", "-c", script], "interval": "100ms", "timeout": "10s", "fall": 1}
    daemon = rankd(group("job", ["/bin/sleep", "1000"], probe=probe))
    told = daemon.wait_for("worker.unready")
    assert (told["reason"], told["output"]) == ("exited with code 1", "rank 0 in attempt 0")
    (tmp_path / "well").touch()
    daemon.wait_for("group.ready")
    assert daemon.stop() == 0
    assert daemon.strays() == []


def test_a_command_that_hangs_does_not_outlive_the_daemon(rankd: Start) -> None:
    probe = {"exec": ["sh", "-c", 'trap "" TERM; setsid sleep 1000; sleep 1000'], "interval": "1s", "timeout": "1h"}
    daemon = rankd(group("job", ["/bin/sleep", "1000"], probe=probe))
    daemon.wait_for("daemon.ready")
    assert daemon.stop() == 0
    assert daemon.strays() == []


def test_a_command_that_hangs_does_not_outlive_a_daemon_that_is_killed(rankd: Start, tmp_path: Path) -> None:
    probe = {"exec": ["sh", "-c", f"touch {tmp_path}/asked; setsid sleep 1000 & sleep 1000"], "timeout": "1h"}
    daemon = rankd(group("job", ["/bin/sleep", "1000"], probe=probe))
    until((tmp_path / "asked").exists, "question")
    assert len(daemon.strays()) >= 2
    daemon.signal(signal.SIGKILL)
    assert daemon.wait() == -signal.SIGKILL
    until(lambda: not daemon.strays(), "end of all processes")


def test_who_depends_on_a_ready_group_waits_for_its_probe(rankd: Start, tmp_path: Path) -> None:
    probe = {"exec": ["test", "-e", str(tmp_path / "well")], "interval": "100ms", "fall": 1}
    waits = group("next", ["/bin/sleep", "1000"], depends_on={"job": "ready"})
    daemon = rankd(group("job", ["/bin/sleep", "1000"], probe=probe) + waits)
    daemon.wait_for("worker.unready", group="job")
    assert daemon.all("worker.started", group="next") == []
    (tmp_path / "well").touch()
    daemon.wait_for("worker.started", group="next")
    assert daemon.stop() == 0
