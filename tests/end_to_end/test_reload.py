"""SIGHUP: the configuration is read anew while the daemon runs, and systemd is told when that begins and ends."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import Rankd

pytestmark = pytest.mark.end_to_end

HEALTH = table("health", listen=["127.0.0.1:0"])
STAYS = HEALTH + group("stays", SLEEP, workers=2)


def rewrite(daemon: Rankd, text: str) -> Path:
    """Another text in the daemon's file, and SIGHUP."""
    path = daemon.directory / "rankd.toml"
    path.write_text(text)
    daemon.signal(signal.SIGHUP)
    return path


def test_groups_come_and_go_and_what_has_not_changed_is_not_touched(rankd: Start) -> None:
    daemon = rankd(STAYS + group("goes", SLEEP) + group("changes", SLEEP))
    daemon.wait_for("daemon.ready")
    rewrite(daemon, STAYS + group("comes", SLEEP) + group("changes", ["/bin/sleep", "1001"]))
    told = daemon.wait_for("daemon.reloaded", added=["comes"], removed=["goes"], restarted=["changes"], applied=[])
    assert told["changed_keys"] == ["groups.changes.command"]
    daemon.wait_for("group.stopped", group="goes")
    daemon.wait_for("group.ready", group="comes", attempt=0)
    daemon.wait_for("group.ready", group="changes", attempt=1)
    daemon.until("/readyz", 200)
    assert list(daemon.http("/status").json["groups"]) == ["stays", "comes", "changes"]
    assert len(daemon.all("worker.started", group="stays")) == 2
    assert not daemon.all("worker.exited", group="stays")
    assert len({record["run_id"] for record in daemon.records}) == 1
    assert daemon.stop() == 0


def test_a_wrong_file_changes_nothing_and_each_mistake_is_told_with_its_line(rankd: Start) -> None:
    daemon = rankd(STAYS)
    daemon.wait_for("daemon.ready")
    path = rewrite(daemon, STAYS + "wrokers = 1\nrole = 3\n")
    told = daemon.wait_for("daemon.reload_refused")
    line = STAYS.count("\n") + 1
    assert told["reason"].startswith(f"{path}:{line}: groups.stays.wrokers: unknown key")
    assert [mistake.split(": ")[0] for mistake in told["mistakes"]] == [f"{path}:{line}", f"{path}:{line + 1}"]
    assert told["level"] == "error"
    path.unlink()
    daemon.signal(signal.SIGHUP)
    assert str(path) in daemon.wait_for("daemon.reload_refused", count=2)["reason"]
    assert not daemon.all("worker.exited")
    assert daemon.stop() == 0


def test_what_only_a_restart_can_change_refuses_the_whole_of_it(rankd: Start) -> None:
    daemon = rankd(STAYS)
    daemon.wait_for("daemon.ready")
    rewrite(daemon, table("daemon", name="other") + STAYS + group("more", SLEEP))
    reason = daemon.wait_for("daemon.reload_refused")["reason"]
    assert reason.endswith("only a restart of rankd can change daemon.name")
    assert not daemon.all("group.starting", group="more")
    assert daemon.stop() == 0


def test_what_the_daemon_looks_up_is_in_force_at_once(rankd: Start) -> None:
    daemon = rankd(STAYS)
    daemon.wait_for("daemon.ready")
    drains = table("daemon", drain_delay="500ms") + table("health", listen=["127.0.0.1:0"], drain_status=404)
    rewrite(daemon, table("log", level="warning") + drains + group("stays", SLEEP, workers=2))
    daemon.wait_for("daemon.reloaded")
    daemon.signal()
    daemon.until("/readyz", 404)
    assert daemon.wait() == 0
    assert not daemon.all("daemon.draining"), "which is said at info"


def test_systemd_is_told_that_a_reload_begins_and_that_it_is_over(rankd: Start, tmp_path: Path) -> None:
    """Whether it went well or not; and in the status line, for as long as the file is wrong, where."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(20)

        def heard_until(wanted: str) -> str:
            heard = ear.recv(65536).decode()
            while not heard.startswith(wanted):
                heard = ear.recv(65536).decode()
            return heard

        daemon = rankd(STAYS, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        heard_until("READY=1")
        path = rewrite(daemon, STAYS + "wrokers = 1\n")
        assert heard_until("RELOADING=1").splitlines()[1].startswith("MONOTONIC_USEC=")
        assert f"STATUS=not reloaded: {path}:" in heard_until("READY=1")
        rewrite(daemon, STAYS)
        heard_until("RELOADING=1")
        assert "STATUS=stays running 2/2" in heard_until("READY=1")
        assert daemon.stop() == 0


def test_a_reload_that_takes_its_time_does_not_hold_up_a_stop(rankd: Start) -> None:
    daemon = rankd(STAYS)
    daemon.wait_for("daemon.ready")
    daemon.signal(signal.SIGHUP)
    assert daemon.stop() == 0
    assert not daemon.all("worker.unkillable")
