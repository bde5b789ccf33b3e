"""A real Prometheus and its promtool: what they make of our metrics, our alerts and our dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.report.counts import Counts
from supervisor.report.metrics import Metrics
from tests.end_to_end.configs import SLEEP, group, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import until
from tests.ports import free_port
from tests.report.views import Standing

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"),
]

MONITORING = Path(__file__).parents[2] / "config/monitoring"
OURS = re.compile(r"\brankd_[a-z_]+\b")

SCRAPE = """
scrape_configs:
  - job_name: rankd
    scrape_interval: 100ms
    scrape_timeout: 100ms
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
rule_files: ["{rules}"]
"""


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], input=stdin, cwd=MONITORING, capture_output=True, text=True, timeout=30, check=False
    )


def families() -> dict[str, str]:
    """Every series name that there can be, and of what type its family is."""
    text = Metrics(Standing(), Counts(), 0.0).exposition("")[0].decode()
    found: dict[str, str] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        found |= {name + suffix: kind for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))}
    return found


def expressions() -> list[str]:
    """Every query of the dashboard."""
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    return asked


def test_promtool_finds_nothing_to_say_about_our_metrics(rankd: Start) -> None:
    """Of a daemon in which something has happened, so that most families have series."""
    script = "import os, signal, sys\nif os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': sys.exit(3)\nsignal.pause()"
    daemon = rankd(group("job", python(script), workers=2))
    daemon.wait_for("group.ready", attempt=1)
    daemon.until("/readyz", 200)
    text = daemon.http("/metrics").text
    assert 'rankd_detection_seconds_count{group="job"}' in text
    assert int(float(re.findall(r"^rankd_loop_lag_seconds_count (\S+)$", text, re.MULTILINE)[0])) > 0
    checked = promtool("check", "metrics", stdin=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_alert_rules_are_right_and_say_yes_and_no_where_they_should() -> None:
    for arguments in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        checked = promtool(*arguments)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    rules, tests = ((MONITORING / name).read_text() for name in ("alerts.yml", "alerts_test.yml"))
    for alert in re.findall(r"alert: (\w+)", rules):
        assert f"alertname: {alert}" in tests, f"{alert} is not tested"


def test_rules_and_dashboard_ask_only_for_what_there_is() -> None:
    there = families()
    rules = re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n        (?:for|labels):", (MONITORING / "alerts.yml").read_text())
    asked = {name for text in [*rules, *expressions()] for name in OURS.findall(text)}
    assert len(asked) > 20
    assert asked <= there.keys(), asked - there.keys()


def test_every_family_but_the_build_is_on_the_dashboard() -> None:
    shown = {name for text in expressions() for name in OURS.findall(text)}
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) if kind == "histogram" else name
             for name, kind in families().items()}  # fmt: skip
    on_it = {re.sub(r"_bucket$", "", name) for name in shown}
    assert bases - on_it == {"rankd_build_info"}


def test_every_query_of_the_dashboard_can_be_read_by_prometheus(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # which is YAML, too
    checked = promtool("check", "rules", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path)
    yield running
    running.stop()


class Prometheus:
    """One that is started with a daemon to scrape, and asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def scrape(self, port: int) -> None:
        file = self._folder / "prometheus.yml"
        file.write_text(SCRAPE.format(port=port, rules=MONITORING / "alerts.yml"))
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus", f"--config.file={file}", f"--storage.tsdb.path={self._folder}/data",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What the expression gives now: nothing until Prometheus is up and has scraped."""
        asked = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/query?{asked}", timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return found
        except OSError:
            return []

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)


def test_prometheus_scrapes_a_daemon_and_sees_its_groups_change(rankd: Start, prometheus: Prometheus) -> None:
    daemon = rankd(group("job", SLEEP, workers=3))
    daemon.until("/readyz", 200)
    prometheus.scrape(daemon.port)
    until(lambda: prometheus.query('rankd_group_ready{job="rankd", group="job"} == 1'), "a ready group")
    assert prometheus.query('rankd_workers{state="ready"}')[0]["value"][1] == "3"
    until(lambda: prometheus.query("histogram_quantile(0.5, rankd_loop_lag_seconds_bucket) > 0"), "a lag")
    assert daemon.stop() == 0
    until(lambda: prometheus.query("up == 0"), "its end")
