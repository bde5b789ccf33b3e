"""What systemd is told through NOTIFY_SOCKET, on a real datagram socket (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, ladder, python
from tests.end_to_end.conftest import Start

pytestmark = pytest.mark.end_to_end

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\nwhile True: signal.pause()"


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plug:
        plug.bind(str(tmp_path / "notify") if request.param == "path" else f"\0rankd-test-{os.getpid()}")
        plug.settimeout(45)
        yield plug


def name_of(plug: socket.socket) -> str:
    """Its address as NOTIFY_SOCKET spells it."""
    address = plug.getsockname()
    return "@" + address[1:].decode() if isinstance(address, bytes) else str(address)


def heard_until(plug: socket.socket, line: str) -> list[str]:
    """Every line heard, up to and with the one that begins so."""
    lines: list[str] = []
    while not any(one.startswith(line) for one in lines):
        lines += plug.recv(65536).decode().splitlines()
    return lines


def test_ready_status_and_stopping_are_said(rankd: Start, ear: socket.socket) -> None:
    daemon = rankd(group("job", SLEEP, workers=2), env={"NOTIFY_SOCKET": name_of(ear)})
    heard = heard_until(ear, "READY=1")
    daemon.wait_for("group.ready")
    assert daemon.stop() == 0
    heard += heard_until(ear, "STOPPING=1")
    assert any(line.startswith("STATUS=") for line in heard)
    assert "READY=1" in heard


def test_a_job_that_is_over_at_once_was_up_all_the_same(rankd: Start, ear: socket.socket) -> None:
    """systemd takes a Type=notify service that ends without READY=1 for failed."""
    daemon = rankd(group("job", ["true"]), env={"NOTIFY_SOCKET": name_of(ear)})
    heard = heard_until(ear, "STOPPING=1")
    assert daemon.wait() == 0
    assert "READY=1" in heard


def test_workers_do_not_see_the_daemons_socket(rankd: Start, ear: socket.socket) -> None:
    script = "import os; print(os.environ.get('NOTIFY_SOCKET'), os.environ.get('WATCHDOG_USEC'))"
    env = {"NOTIFY_SOCKET": name_of(ear), "WATCHDOG_USEC": "10000000"}
    daemon = rankd(group("job", python(script)), env=env)
    assert daemon.wait() == 0
    said, usec = daemon.log("job", 0, 0).read_text().split()
    assert said.startswith((f"{daemon.directory}/run/", "@rankd-")), "its group's own"
    assert usec == "None"


def test_the_watchdog_is_fed_in_time(rankd: Start, ear: socket.socket) -> None:
    env = {"NOTIFY_SOCKET": name_of(ear), "WATCHDOG_USEC": "200000"}
    daemon = rankd(group("job", SLEEP), env=env)
    heard_until(ear, "READY=1")
    at = []
    for _ in range(6):
        heard_until(ear, "WATCHDOG=1")
        at.append(time.monotonic())
    assert max(later - earlier for earlier, later in pairwise(at)) < 0.2
    assert daemon.stop() == 0


def test_a_watchdog_meant_for_another_process_is_not_fed(rankd: Start, ear: socket.socket) -> None:
    env = {"NOTIFY_SOCKET": name_of(ear), "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    daemon = rankd(group("job", python("import time; time.sleep(0.5)")) + group("stays", SLEEP), env=env)
    daemon.wait_for("daemon.ready")
    daemon.wait_for("group.succeeded", group="job")
    assert daemon.stop() == 0
    assert "WATCHDOG=1" not in heard_until(ear, "STOPPING=1")


def test_a_long_ladder_asks_for_more_time(rankd: Start, ear: socket.socket) -> None:
    daemon = rankd(group("job", python(STUBBORN), stop=ladder("1s")), env={"NOTIFY_SOCKET": name_of(ear)})
    daemon.wait_for_line("up")
    daemon.process.terminate()
    heard = heard_until(ear, "EXTEND_TIMEOUT_USEC=")
    asked = next(line for line in heard if line.startswith("EXTEND_TIMEOUT_USEC="))
    assert int(asked.partition("=")[2]) >= 1_000_000
    assert daemon.wait() == 0


def test_a_notify_socket_that_is_gone_stops_nothing(rankd: Start, tmp_path: Path) -> None:
    daemon = rankd(group("job", SLEEP), env={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    daemon.wait_for("group.ready")
    assert daemon.stop() == 0
