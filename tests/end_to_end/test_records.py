"""Records: one JSON object a line, and nothing in them that is nobody's business."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.configs import group, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import ROOT, until

pytestmark = pytest.mark.end_to_end

SECRETS = ["s3cret-inherited", "s3cret-of-the-group", "s3cret-in-argv"]


def test_no_environment_value_and_no_argument_is_ever_told(rankd: Start) -> None:
    script = "import os, sys; sys.exit(3 if os.environ['MINE'] and os.environ['THEIRS'] and sys.argv[1] else 0)"
    config = group(
        "job", python(script, SECRETS[2]), workers=2, env={"MINE": SECRETS[1]}, restart={"max_restarts": 1}
    ) + group("stays", ["/bin/sleep", "1000"], env={"MINE": SECRETS[1]}, required=False)
    daemon = rankd(table("log", level="debug") + table("daemon", when_done="stay") + config, env={"THEIRS": SECRETS[0]})
    daemon.wait_for("group.failed", group="job", exit_code=3)
    told = [daemon.http(path).text for path in ("/status", "/metrics", "/readyz?verbose", "/healthz?verbose")]
    assert daemon.stop() == 0
    for text in [*told, daemon.story(), *map(str, daemon.records)]:
        assert not [secret for secret in SECRETS if secret in text], text


def test_every_record_has_a_date_a_level_and_a_sentence(rankd: Start) -> None:
    daemon = rankd(table("daemon", name="svc", run_id="job-7", node_id="host-a") + group("job", python("pass")))
    assert daemon.wait() == 0
    for record in daemon.records:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["timestamp"])
        assert record["level"] in ("debug", "info", "warning", "error")
        assert record["message"]
        assert (record["service"], record["run_id"], record["host"]) == ("svc", "job-7", "host-a")


def test_how_a_worker_ended_is_told_whole(rankd: Start) -> None:
    script = "import sys\nb = bytearray(40_000_000)\nfor i in range(2_000_000): pass\nsys.exit(3)"
    daemon = rankd(group("job", python(script), restart={"max_restarts": 0}))
    assert daemon.wait() == 3
    end = daemon.wait_for("worker.exited", exit_code=3)
    assert "signal" not in end
    assert end["by"] == "itself"
    assert end["core_dumped"] is False
    assert 40_000_000 < end["max_rss_bytes"] < 200_000_000
    assert end["user_cpu_s"] + end["system_cpu_s"] <= end["ran_for_ms"] / 1000 + 0.05
    assert end["user_cpu_s"] > 0


def test_a_failure_has_the_last_lines_of_stderr_and_the_status_page_does_not(rankd: Start) -> None:
    script = "import sys; sys.stderr.buffer.write(b'first\\n' + b'x\\n' * 18 + b'the \\xff cause\\nlast'); sys.exit(3)"
    stays = table("daemon", when_done="stay")
    daemon = rankd(stays + group("job", python(script), workers=1, restart={"max_restarts": 0}))
    failed = daemon.wait_for("worker.failed")
    assert failed["stderr_tail"] == "x\n" * 18 + "the \ufffd cause\nlast"
    daemon.wait_for("group.failed")
    assert "cause" not in daemon.http("/status").text
    assert daemon.stop() == 0


def test_a_worker_that_we_stop_has_no_failure_to_explain(rankd: Start) -> None:
    daemon = rankd(group("job", ["/bin/sh", "-c", "echo words >&2; exec sleep 1000"]))
    daemon.wait_for_line("words")
    assert daemon.stop() == 0
    assert not [record for record in daemon.records if "stderr_tail" in record]


def test_the_level_holds_back_what_is_below_it(rankd: Start) -> None:
    daemon = rankd(table("log", level="error") + group("job", ["/bin/false"], restart={"max_restarts": 0}))
    assert daemon.wait() == 1
    assert {record["level"] for record in daemon.records} == {"error"}


def restarts(metrics: str) -> float:
    """All restarts so far."""
    return sum(map(float, re.findall(r"^rankd_restarts_total\{.*\} (\S+)$", metrics, re.MULTILINE)))


def test_a_reader_that_goes_away_does_not_stop_supervision(rankd: Start) -> None:
    noisy = ["/bin/sh", "-c", "echo noise; echo noise >&2; exit 1"]
    daemon = rankd(group("job", noisy, restart={"max_restarts": -1, "backoff": {"initial": "10ms", "factor": 1}}))
    before = daemon.http("/metrics").text
    daemon.hang_up()
    until(lambda: not daemon.is_read, "end of reading")
    until(lambda: restarts(daemon.http("/metrics").text) > restarts(before) + 10, "more restarts")
    assert daemon.stop() == 0


def test_on_a_terminal_records_are_prose_between_the_workers_lines(tmp_path: Path) -> None:
    path = tmp_path / "rankd.toml"
    job = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    path.write_text(table("health", listen=[]) + group("job", job, restart={"max_restarts": 0}))
    ours, theirs = os.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "dumb"}
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor", "run", str(path)],
        env=environment | {"RUNTIME_DIRECTORY": str(tmp_path / "run")},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        said = b""
        try:
            while block := os.read(ours, 65536):
                said += block
        except OSError as error:  # how a terminal ends when its last user closes it
            assert error.errno == errno.EIO  # noqa: PT017
        os.close(ours)
        assert process.wait(20) == 3
    lines = said.decode().splitlines()
    assert "[job0]:out" in lines
    assert "[job0]:err" in lines
    assert any("failed: exited with code 3" in line for line in lines)
    assert not [line for line in lines if line.startswith("{") or "\x1b" in line]
