"""What load balancers and people are told over HTTP while a group lives."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, ladder, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import Rankd, until

pytestmark = pytest.mark.end_to_end

HANDED_ON = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_group_is_seen_to_start_run_back_off_and_recover(rankd: Start, tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
if os.environ["RANK"] == "1" and not os.path.exists({str(tmp_path / "good")!r}): sys.exit(3)
signal.pause()
"""
    restart = {"max_restarts": -1, "backoff": {"initial": "1s", "factor": 1, "jitter": 0.0}}
    daemon = rankd(group("job", python(script), workers=2, restart=restart))
    daemon.wait_for("group.backing_off")
    assert daemon.http("/livez").status == 200
    unready = daemon.http("/readyz")
    assert unready.status == 503
    assert "job" in unready.text
    assert daemon.http("/readyz/job").status == 503
    seen = daemon.http("/status").json["groups"]["job"]
    assert (seen["phase"], seen["ready_workers"], seen["restarts_left"]) == ("backing_off", 0, None)
    assert seen["last_failure"]["exit_code"] == 3
    (tmp_path / "good").touch()
    daemon.until("/readyz", 200)
    assert daemon.http("/readyz/job").text.strip() == "ok"
    assert daemon.http("/startupz").status == 200
    assert daemon.stop() == 0


def test_every_path_answers_as_documented(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=3))
    daemon.wait_for("daemon.ready")
    daemon.until("/readyz", 200)
    for path in ("/livez", "/startupz", "/readyz", "/healthz", "/readyz/job"):
        reply = daemon.http(path)
        assert (reply.status, reply.text.strip()) == (200, "ok")
        assert reply.headers["Content-Type"].startswith("text/plain")
        assert reply.headers["Cache-Control"] == "no-store"
        head = daemon.http(path, "HEAD")
        assert (head.status, head.text) == (200, "")
    assert daemon.http("/readyz/nobody").status == 404
    assert daemon.http("/nowhere").status == 404
    assert daemon.http("/livez", "POST").status == 405
    verbose = daemon.http("/healthz?verbose")
    assert verbose.headers["Content-Type"].startswith("application/health+json")
    assert verbose.json["status"] == "pass"
    assert daemon.stop() == 0


def test_http_1_0_without_host_is_answered(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP))
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as connection:
        connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        answer = b""
        while block := connection.recv(4096):
            answer += block
    assert answer.split(b"\r\n")[0].split()[1] == b"200"
    assert daemon.stop() == 0


def test_metrics_count_what_happened(rankd: Start) -> None:
    script = "import os, signal, sys\nif os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': sys.exit(3)\nsignal.pause()"
    daemon = rankd(group("job", python(script), workers=1))
    daemon.wait_for("worker.started", count=2)
    daemon.until("/readyz", 200)
    metrics = daemon.http("/metrics").text.splitlines()
    assert 'rankd_group_ready{group="job"} 1.0' in metrics
    assert 'rankd_restarts_remaining{group="job"} 2.0' in metrics
    assert any(line.startswith("rankd_restarts_total{") and line.endswith(" 1.0") for line in metrics)
    assert any(line.startswith("rankd_worker_exits_total{") and 'code="3"' in line for line in metrics)
    assert daemon.stop() == 0


def test_status_tells_people_and_programs_without_secrets(rankd: Start) -> None:
    daemon = rankd(group("job", [*SLEEP, "1000.0"], workers=2, env={"TOKEN": "hush-hush"}))
    pids = {daemon.wait_for("worker.started", rank=rank)["pid"] for rank in range(2)}
    daemon.until("/readyz", 200)
    text = daemon.http("/status").text
    assert all(str(pid) in text for pid in pids)
    assert "hush" not in text
    assert "1000.0" not in text, "no argv in /status"
    assert str(daemon.directory) not in text, "no paths in /status"
    assert daemon.stop() == 0


def test_while_it_stops_it_is_live_and_not_ready(rankd: Start) -> None:
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\nwhile True: signal.pause()"
    daemon = rankd(group("job", python(script), stop=ladder("1s")))
    daemon.wait_for_line("up")
    daemon.until("/readyz", 200)
    daemon.process.terminate()
    daemon.wait_for("group.stopping")
    assert daemon.http("/livez").status == 200
    assert daemon.http("/readyz").status == 503
    assert daemon.wait() == 0


def test_draining_answers_503_for_a_while_before_the_first_worker_is_told(rankd: Start) -> None:
    daemon = rankd(table("daemon", drain_delay="700ms") + group("job", SLEEP))
    daemon.wait_for("daemon.ready")
    daemon.until("/readyz", 200)
    daemon.process.terminate()
    daemon.wait_for("daemon.draining")
    reply = daemon.http("/readyz")
    assert reply.status == 503
    assert reply.headers["Connection"] == "close"
    assert "Retry-After" in reply.headers
    assert not daemon.all("group.stopping")
    assert daemon.wait() == 0


def test_the_drain_status_may_be_404_for_haproxy(rankd: Start) -> None:
    config = table("daemon", drain_delay="700ms") + table("health", listen=["127.0.0.1:0"], drain_status=404)
    daemon = rankd(config + group("job", SLEEP))
    daemon.wait_for("daemon.ready")
    daemon.process.terminate()
    daemon.wait_for("daemon.draining")
    assert daemon.http("/readyz").status == 404
    assert daemon.wait() == 0


def test_it_listens_on_several_addresses_and_a_unix_socket(rankd: Start, tmp_path: Path) -> None:
    listen = ["127.0.0.1:0", "127.0.0.2:0", f"unix:{tmp_path}/health.sock"]
    daemon = rankd(table("health", listen=listen) + group("job", SLEEP))
    addresses = daemon.wait_for("health.listening")["addresses"]
    assert len(addresses) == 3
    until((tmp_path / "health.sock").is_socket, "the socket")
    with socket.socket(socket.AF_UNIX) as plug:
        plug.settimeout(10)
        plug.connect(str(tmp_path / "health.sock"))
        connection = http.client.HTTPConnection("localhost")
        connection.sock = plug
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
    assert daemon.stop() == 0
    assert not (tmp_path / "health.sock").exists()


def test_a_socket_of_systemd_is_used_instead_of_its_own(rankd: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        through = (sys.executable, "-S", "-c", HANDED_ON, str(server.fileno()))
        daemon = rankd(group("job", SLEEP), through=through, pass_fds=[server.fileno()])
        assert daemon.port == port
        assert daemon.http("/livez").status == 200
        assert daemon.stop() == 0


def test_half_open_connections_do_not_keep_others_out(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP))
    daemon.wait_for("daemon.ready")
    held = [socket.create_connection(("127.0.0.1", daemon.port), timeout=10) for _ in range(200)]
    try:
        for plug in held:
            plug.sendall(b"GET /livez HT")
        assert max(_livez(daemon) for _ in range(20)) < 0.5
        assert daemon.stop() == 0
    finally:
        for plug in held:
            plug.close()


def _livez(daemon: Rankd) -> float:
    reply = daemon.http("/livez")
    assert reply.status == 200
    return reply.took_for


def test_events_are_the_records_and_can_be_had_from_the_first_one_on(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2))
    daemon.wait_for("health.changed")
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    connection.request("GET", "/events?since=0")
    stream = connection.getresponse()
    assert stream.headers["Content-Type"] == "text/event-stream"
    daemon.signal()
    heard = [json.loads(line.removeprefix(b"data: ")) for line in stream if line.startswith(b"data: ")]
    connection.close()
    assert daemon.wait() == 0
    assert heard[-1]["event"] == "group.stopped"
    assert heard == daemon.records[: len(heard)], "word for word, timestamps too"
