"""A real HAProxy in front of rankd: what its checks make of our answers, and that no client is ever failed."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.end_to_end.configs import SLEEP, group, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import Rankd
from tests.interop.haproxy import haproxy, needed
from tests.ports import free_port

pytestmark = [pytest.mark.interop, pytest.mark.end_to_end, needed]

EVERY = "inter 100ms fall 1 rise 1"

SERVING = Path(__file__).resolve().parents[2] / "config" / "serving.toml"

SERVER = """
import http.server, signal, sys

class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server.serve_forever()
"""


def server(daemon: Rankd, options: str = "") -> str:
    return f"server one 127.0.0.1:{daemon.port} {options} {EVERY}"


@pytest.mark.parametrize("check", ["", "GET /readyz", "HEAD /readyz", "OPTIONS /readyz"])
def test_httpchk_takes_a_daemon_in_and_out_of_service(rankd: Start, tmp_path: Path, check: str) -> None:
    """Also with no method and path given, which is HAProxy's OPTIONS /."""
    daemon = rankd(table("daemon", drain_delay="2s") + group("job", SLEEP))
    daemon.until("/readyz", 200)
    with haproxy(tmp_path, f"option httpchk {check}\n{server(daemon, 'check')}") as proxy:
        proxy.until("one", status="UP", check_status="L7OK")
        daemon.signal()
        proxy.until("one", status="DOWN", check_status="L7STS", check_code="503")


def test_drain_status_404_is_a_soft_drain_with_disable_on_404(rankd: Start, tmp_path: Path) -> None:
    health = table("health", listen=["127.0.0.1:0"], drain_status=404)
    daemon = rankd(table("daemon", drain_delay="2s") + health + group("job", SLEEP))
    daemon.until("/readyz", 200)
    backend = f"option httpchk HEAD /readyz\nhttp-check disable-on-404\n{server(daemon, 'check')}"
    with haproxy(tmp_path, backend) as proxy:
        proxy.until("one", status="UP", check_status="L7OK")
        daemon.signal()
        proxy.until("one", status="NOLB", check_code="404")


def test_the_agent_gives_weight_by_ready_workers_then_drains_until_the_next_daemon_is_ready(
    rankd: Start, tmp_path: Path
) -> None:
    script = f"""
import os, signal, sys
if os.environ["RANK"] == "3" and not os.path.exists({str(tmp_path / "good")!r}): sys.exit(3)
signal.pause()
"""
    restart = {"scope": "worker", "max_restarts": -1, "backoff": {"initial": "500ms", "factor": 1, "jitter": 0.0}}
    port = free_port()
    health = table("health", listen=["127.0.0.1:0"], agent_check=f"127.0.0.1:{port}")
    config = table("daemon", drain_delay="2s") + health + group("job", python(script), workers=4, restart=restart)
    daemon = rankd(config)
    assert daemon.wait_for("health.listening")["agent_check"] == [f"127.0.0.1:{port}"]
    daemon.wait_for("group.degraded")
    backend = server(daemon, f"weight 100 agent-check agent-port {port} agent-inter 100ms")
    with haproxy(tmp_path, backend) as proxy:
        proxy.until("one", weight="75")
        (tmp_path / "good").touch()
        proxy.until("one", weight="100")
        daemon.signal()
        proxy.until("one", status="DRAIN (agent)")
        assert daemon.wait() == 0
        rankd(config)
        proxy.until("one", status="no check")  # which is up, of a server without a check of its own


def test_no_client_is_failed_while_one_of_two_daemons_drains_stops_and_comes_back(rankd: Start, tmp_path: Path) -> None:
    def start(worker_port: int, health_port: int) -> Rankd:
        health = table("health", listen=[f"127.0.0.1:{health_port}"])
        job = group("web", [sys.executable, "-u", "-c", SERVER, str(worker_port)])
        daemon = rankd(table("daemon", drain_delay="1s") + health + job)
        daemon.until("/readyz", 200)
        return daemon

    ports = [(free_port(), free_port()) for _ in range(2)]
    daemons = [start(*pair) for pair in ports]
    servers = "\n".join(
        f"server {name} 127.0.0.1:{worker} check port {health} {EVERY}"
        for name, (worker, health) in zip(("one", "two"), ports, strict=True)
    )
    with haproxy(tmp_path, f"option httpchk GET /readyz\n{servers}") as proxy, Clients(proxy.port) as clients:
        for name in ("one", "two"):
            proxy.until(name, status="UP", check_status="L7OK")
        clients.until_answered(50)
        daemons[0].signal()
        proxy.until("one", status="DOWN")
        assert daemons[0].wait() == 0
        clients.until_answered(50)
        start(*ports[0])
        proxy.until("one", status="UP")
        before = int(proxy.server("one")["stot"])
        clients.until_answered(50)
        assert int(proxy.server("one")["stot"]) > before, "it is back in service"
    assert not clients.failures


def test_the_haproxy_of_serving_toml_reaches_each_worker_and_drains_all_before_the_first_is_stopped(
    rankd: Start, tmp_path: Path
) -> None:
    text = SERVING.read_text()
    moved = {"8080": str(free_port())}
    moved |= {str(8001 + number): str(port) for number, port in enumerate(free_ports(4))}
    text = re.sub("|".join(moved), lambda found: moved[found[0]], text)
    daemon = rankd(text)
    backend = re.findall(r"^# {7}(.+)$", text, re.MULTILINE)
    servers = [line.split()[1] for line in backend if line.startswith("server ")]
    with haproxy(tmp_path, "\n".join(backend)) as proxy:
        for name in servers:
            proxy.until(name, status="UP", check_status="L7OK")
        with Clients(proxy.port) as clients:
            clients.until_answered(50)
        assert not clients.failures
        assert all(int(proxy.server(name)["stot"]) > 0 for name in servers)
        daemon.signal()
        for name in servers:
            proxy.until(name, status="DOWN", check_status="L7STS", check_code="503")
        assert not daemon.all("group.stopping")
    assert daemon.wait() == 0


def test_no_client_is_failed_while_all_workers_are_replaced_one_after_the_other(rankd: Start, tmp_path: Path) -> None:
    """Without a second try: each request goes where HAProxy first sends it, or is lost."""
    first, health = free_ports(4)[0], free_port()

    def serving(release: str) -> str:
        return table("health", listen=[f"127.0.0.1:{health}"]) + group(
            "web",
            [sys.executable, "-u", "-c", SERVER, "${PORT}", release],
            workers=4,
            ports=f"{first}-{first + 3}",
            restart={"scope": "worker", "policy": "always", "drain": "1s"},
            probe={"http": "http://127.0.0.1:${PORT}/", "interval": "1s"},
        )

    daemon = rankd(serving("old"))
    daemon.until("/readyz", 200)
    servers = "\n".join(f"server web{rank} 127.0.0.1:{first + rank} check port {health} {EVERY}" for rank in range(4))
    backend = f"""
        option httpchk
        http-check send meth GET uri-lf /readyz/web/%[srv_id,sub(1)]
        no option redispatch
        retries 0
        {servers}
    """
    with haproxy(tmp_path, backend) as proxy, Clients(proxy.port) as clients:
        for rank in range(4):
            proxy.until(f"web{rank}", status="UP", check_status="L7OK")
        clients.until_answered(50)
        (daemon.directory / "rankd.toml").write_text(serving("new"))
        daemon.signal(signal.SIGHUP)
        for rank in range(4):
            proxy.until(f"web{rank}", status="DOWN", check_status="L7STS", check_code="503")
            # Two at most: that the last one is back may be seen after that the next is leaving.
            assert [proxy.server(f"web{other}")["status"] for other in range(4)].count("UP") >= 2
            daemon.wait_for("worker.ready", attempt=rank + 1, local_rank=rank)
        daemon.wait_for("group.rolling", over=True, halted=False, replaced=4)
        for rank in range(4):
            proxy.until(f"web{rank}", status="UP", check_status="L7OK")
        clients.until_answered(50)
        assert all(int(proxy.server(f"web{rank}")["stot"]) > 0 for rank in range(4))
    assert not clients.failures
    assert not daemon.all("group.degraded")
    assert daemon.stop() == 0


def free_ports(count: int) -> range:
    """Ports of loopback in a row, each of which was free a moment ago. Others who look look elsewhere first."""
    for step in range(0, 10000, count):
        first = 20000 + (os.getpid() * 37 + step) % 10000
        with ExitStack() as taken, suppress(OSError):
            for port in range(first, first + count):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
            return range(first, first + count)
    raise AssertionError("no ports are free")


class Clients:
    """Four clients that ask one request after the other; each answer but 200 is a failure."""

    def __init__(self, port: int) -> None:
        self.failures: list[str] = []
        self._port = port
        self._answered = 0
        self._more = threading.Condition()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(30)

    def until_answered(self, more: int) -> None:
        """Wait for so many further answers."""
        with self._more:
            goal = self._answered + more
            assert self._more.wait_for(lambda: self._answered >= goal, 30), self.failures

    def _ask(self) -> None:
        while not self._done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.request("GET", "/")
                status = connection.getresponse().status
                if status != 200:
                    self.failures.append(str(status))
            except OSError as error:
                self.failures.append(repr(error))
            finally:
                connection.close()
            with self._more:
                self._answered += 1
                self._more.notify_all()
