"""SIGHUP: the configuration is read anew while the daemon runs, and systemd is told when that begins and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import ROOT, Rankd, until

pytestmark = pytest.mark.end_to_end

HEALTH = table("health", listen=["127.0.0.1:0"])
STAYS = HEALTH + group("stays", SLEEP, workers=2)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="rankd-") as path:
        yield Path(path)


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


def test_another_limit_of_a_section_holds_without_a_restart(rankd: Start) -> None:
    script = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
from supervisor.worker import ready, section
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ready()
signal.sigwait([signal.SIGUSR1])
with section("step"):
    signal.pause()
"""
    job = group("job", python(script), watchdog={"start_timeout": "1m", "sections": {"step": "1h"}})
    daemon = rankd(HEALTH + job)
    pid = daemon.wait_for("worker.ready")["pid"]
    rewrite(daemon, HEALTH + job.replace("1h", "100ms"))
    assert daemon.wait_for("daemon.reloaded", applied=["job"])["changed_keys"] == ["groups.job.watchdog.sections"]
    os.kill(pid, signal.SIGUSR1)
    failed = daemon.wait_for("worker.failed")
    assert "has been in section step for longer than 0.1 s" in failed["reason"]
    daemon.wait_for("group.ready", attempt=1)
    assert daemon.stop() == 0


def test_a_group_that_comes_is_watched_and_asked_and_told_of_like_any_other(
    rankd: Start, tmp_path: Path, short_path: Path
) -> None:
    """Its doors are opened when it comes, opened anew when workers have to know of it, and gone with it."""

    def web(heartbeat: str) -> str:
        return group(
            "web",
            ["sh", "-c", f"echo $WATCHDOG_USEC $NOTIFY_SOCKET > {tmp_path}/$RANKD_ATTEMPT; exec sleep 1000"],
            probe={"exec": ["test", "-e", f"{tmp_path}/well"], "interval": "100ms"},
            watchdog={"heartbeat": heartbeat},
        )

    def told_to(attempt: int) -> list[str]:
        file = tmp_path / str(attempt)
        return until(lambda: (file.exists() and file.read_text()) or None, "the word of a worker").split()

    daemon = rankd(STAYS, env={"RUNTIME_DIRECTORY": str(short_path)})
    daemon.wait_for("daemon.ready")
    hook = table("hooks.page", events=["group.ready"], command=["sh", "-c", f"cat > {tmp_path}/page"])
    rewrite(daemon, STAYS + hook + web("1h"))
    assert daemon.wait_for("daemon.reloaded")["changed_keys"] == ["hooks"]
    daemon.wait_for("group.started", group="web")
    assert not daemon.all("group.ready", group="web")
    (tmp_path / "well").touch()
    ready = daemon.wait_for("group.ready", group="web")
    until(lambda: (tmp_path / "page").exists() and (tmp_path / "page").read_text(), "the hook")
    assert json.loads((tmp_path / "page").read_text()) == ready
    usec, door = told_to(0)
    assert (usec, Path(door).is_socket()) == ("3600000000", True)
    rewrite(daemon, STAYS + hook + web("2h"))
    daemon.wait_for("daemon.reloaded", restarted=["web"])
    daemon.wait_for("group.ready", group="web", attempt=1)
    assert told_to(1) == ["7200000000", door]
    assert Path(door).is_socket()
    rewrite(daemon, STAYS)
    daemon.wait_for("group.stopped", group="web")
    until(lambda: not Path(door).exists(), "the door to be gone")
    assert daemon.http("/livez").status == 200
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
        ear.settimeout(45)

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
