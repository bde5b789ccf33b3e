"""Records that a daemon hands to commands and webhooks."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.configs import SLEEP, group, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import until

pytestmark = pytest.mark.end_to_end


def test_a_job_that_fails_is_told_before_the_daemon_is_gone(rankd: Start, tmp_path: Path) -> None:
    told = tmp_path / "told"
    hooks = table("hooks.page", command=["sh", "-c", f"(cat; echo; env) > {told}.new; mv {told}.new {told}"])
    daemon = rankd(hooks + group("job", python("raise SystemExit(3)"), restart={"max_restarts": 0}))
    assert daemon.wait() == 3
    record, *env = told.read_text().splitlines()
    assert json.loads(record) in daemon.all("group.failed")
    assert {"RANKD_EVENT=group.failed", "RANKD_GROUP=job"} <= set(env)
    assert not daemon.all("worker.orphan_killed"), "a hook's process is no orphan"


def test_a_webhook_gets_records_and_is_tried_again(rankd: Start) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        heard: list[dict[str, Any]] = []  # noqa: RUF012 - one server, one test

        def do_POST(self) -> None:
            self.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(503 if len(self.heard) == 1 else 204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            daemon = rankd(table("hooks.chat", events=["group.ready"], url=url, backoff="10ms") + group("job", SLEEP))
            ready = daemon.wait_for("group.ready")
            until(lambda: Answer.heard == [ready, ready], "the record, twice")
            daemon.until("/readyz", 200)
            until(
                lambda: 'rankd_hook_records_total{hook="chat",outcome="delivered"} 1.0' in daemon.http("/metrics").text,
                "the count of it",
            )
            assert daemon.stop() == 0
        finally:
            server.shutdown()
            thread.join()


def test_a_hook_that_hangs_does_not_keep_the_daemon_from_stopping(rankd: Start) -> None:
    hooks = table("hooks.slow", events=["group.ready"], command=["sleep", "1000"], timeout="60s")
    daemon = rankd(hooks + group("job", SLEEP))
    daemon.until("/readyz", 200)
    assert daemon.stop(timeout=5) == 0
    assert "rankd ends" in daemon.wait_for("daemon.hook_failed", hook="slow")["reason"]


def test_a_hook_gets_what_it_has_named_though_the_level_of_the_log_keeps_it(rankd: Start, tmp_path: Path) -> None:
    told = tmp_path / "told"
    hooks = table("hooks.page", events=["group.ready"], command=["sh", "-c", f"cat > {told}.new; mv {told}.new {told}"])
    daemon = rankd(table("log", level="warning") + hooks + group("job", SLEEP))
    until(told.exists, "the record")
    record = json.loads(told.read_text())
    assert (record["event"], record["seq"]) == ("group.ready", 0)
    assert daemon.stop() == 0
    assert daemon.records == []
