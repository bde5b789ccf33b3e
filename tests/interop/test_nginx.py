"""A real nginx that hands on what /readyz says: over HTTP/1.0, as it does by itself, and over connections it keeps."""

from __future__ import annotations

import http.client
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import until
from tests.ports import free_port

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.end_to_end,
    pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light"),
]

CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream rankd {{ server 127.0.0.1:{health}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://rankd;
            {options}
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, health: int, options: str) -> Iterator[int]:
    """Run it in front of that health listener; its own port."""
    assert NGINX is not None
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(CONFIG.format(folder=folder, health=health, port=port, options=options))
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen([NGINX, "-e", "stderr", "-p", str(folder), "-c", str(file)], stdout=log, stderr=log)
        try:
            until((folder / "nginx.pid").exists, "nginx's pid file")
            yield port
        finally:
            process.terminate()
            process.wait(10)


def ask(port: int) -> tuple[int, str | None, str]:
    """Status, Retry-After and text of /readyz as a client of nginx sees them."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.getheader("Retry-After"), answer.read().decode()


@pytest.mark.parametrize(
    "options",
    ["proxy_http_version 1.0;", 'proxy_http_version 1.1; proxy_set_header Connection "";'],
    ids=["http-1.0", "kept"],
)
def test_nginx_hands_on_that_a_daemon_is_ready_and_then_that_it_drains(
    rankd: Start, tmp_path: Path, options: str
) -> None:
    """No request is answered by nginx itself: a connection that we close is never taken for a failure."""
    daemon = rankd(table("daemon", drain_delay="2s") + group("job", SLEEP))
    daemon.until("/readyz", 200)
    with nginx(tmp_path, daemon.port, options) as port:
        assert [ask(port) for _ in range(20)] == [(200, None, "ok\n")] * 20
        daemon.signal()
        daemon.wait_for("daemon.draining")
        daemon.until("/readyz", 503)
        answers = {ask(port) for _ in range(20)}
    (answer,) = answers
    assert answer[0] == 503
    assert answer[1] is not None
    assert answer[2].startswith("draining")
    assert daemon.wait() == 0
