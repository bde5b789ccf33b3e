"""What Prometheus reads, parsed back by its own client."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

import pytest
from prometheus_client import parser
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.samples import Sample

from supervisor import __version__, clock
from supervisor.core import events
from supervisor.core.events import Event, Who
from supervisor.core.health import HostState, WorkerView
from supervisor.core.messages import ExitStatus
from supervisor.core.state import Phase
from supervisor.report.counts import Counts
from supervisor.report.metrics import WORKER_STATES, Metrics
from tests.report.conftest import Serve
from tests.report.views import LEADS, Standing, group

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def read(metrics: Metrics) -> list[Sample]:
    body, content_type = metrics.exposition("")
    assert content_type.startswith("text/plain; version=0.0.4")
    return [sample for family in parser.text_string_to_metric_families(body.decode()) for sample in family.samples]


def value(samples: list[Sample], name: str, **labels: str) -> float:
    (found,) = [sample.value for sample in samples if sample.name == name and sample.labels == labels]
    return found


def test_gauges_are_those_of_the_snapshot() -> None:
    standing = Standing(group(size=3), group("cache", ready=False, phase="backing_off", restarts_left=None))
    workers = standing.groups["trainer"].workers
    standing.put(group(size=3, workers=(*workers[:2], replace(workers[2], state="exited"))))
    samples = read(Metrics(standing, Counts(), clock.now() - 5))
    assert value(samples, "rankd_build_info", version=__version__, python=platform.python_version()) == 1
    assert 5 <= value(samples, "rankd_up_seconds") < 60
    assert value(samples, "rankd_group_ready", group="trainer") == 1
    assert value(samples, "rankd_group_ready", group="cache") == 0
    phases = {phase.value: value(samples, "rankd_group_phase", group="cache", phase=phase.value) for phase in Phase}
    assert [phase for phase, is_in in phases.items() if is_in] == ["backing_off"]
    states = {state: value(samples, "rankd_workers", group="trainer", state=state) for state in WORKER_STATES}
    assert {state: number for state, number in states.items() if number} == {"ready": 2, "exited": 1}
    assert value(samples, "rankd_restarts_remaining", group="trainer") == 3
    assert value(samples, "rankd_restarts_remaining", group="cache") == math.inf


def test_a_host_tells_how_it_stands_among_others_and_of_the_others_only_where_it_leads() -> None:
    spare = replace(LEADS, state="spare", hosts=None)
    standing = Standing(group("one"), group("led", rendezvous=LEADS), group("kept", rendezvous=spare))
    samples = read(Metrics(standing, Counts(), 0.0))
    own = [sample for sample in samples if sample.name == "rankd_rendezvous_state"]
    assert {sample.labels["state"] for sample in own} == set(get_args(HostState))
    assert {(sample.labels["group"], sample.labels["state"]) for sample in own if sample.value == 1} == {
        ("led", "running"),
        ("kept", "spare"),
    }
    all_hosts = [sample for sample in samples if sample.name == "rankd_rendezvous_hosts_by_state"]
    assert {sample.labels["group"] for sample in all_hosts} == {"led"}
    assert {sample.labels["state"]: sample.value for sample in all_hosts if sample.value} == {"spare": 1, "running": 2}


def test_counters_and_histograms_tell_what_was_counted_before() -> None:
    counts = Counts()
    counts.observe(
        events.worker_exited(1.0, Who("trainer", 0, 0, 0), 1, ExitStatus(None, 9), "outside", 1.0)
    )  # fmt: skip
    counts.observe(events.group_restarting(1.0, "trainer", 0, "why", "signal", 2, 0))
    counts.observe(events.group_starting(1.5, "trainer", 1, 1))
    counts.observe(events.group_started(1.75, "trainer", 1, 1, 0.25))
    counts.log_bytes["trainer", "stdout"] += 1000
    counts.log_dropped_bytes["trainer"] += 7
    counts.http_requests["/livez", 200] += 3
    counts.events_dropped += 2
    samples = read(Metrics(Standing(), counts, 0.0))
    exits = {"group": "trainer", "by": "outside", "code": "", "signal": "SIGKILL"}
    assert value(samples, "rankd_worker_exits_total", **exits) == 1
    assert value(samples, "rankd_restarts_total", group="trainer", reason="signal") == 1
    assert value(samples, "rankd_start_seconds_count", group="trainer") == 1
    assert value(samples, "rankd_start_seconds_sum", group="trainer") == 0.25
    assert value(samples, "rankd_restart_seconds_sum", group="trainer", step="stop") == 0.5
    assert value(samples, "rankd_restart_seconds_sum", group="trainer", step="start") == 0.25
    assert value(samples, "rankd_log_bytes_total", group="trainer", stream="stdout") == 1000
    assert value(samples, "rankd_log_dropped_bytes_total", group="trainer") == 7
    assert value(samples, "rankd_http_requests_total", path="/livez", code="200") == 3
    assert value(samples, "rankd_start_seconds_bucket", group="trainer", le="0.1") == 0
    assert value(samples, "rankd_start_seconds_bucket", group="trainer", le="0.25") == 1
    assert value(samples, "rankd_start_seconds_bucket", group="trainer", le="+Inf") == 1
    assert value(samples, "rankd_events_dropped_total") == 2


def test_what_the_daemon_itself_takes_its_time_for_is_told() -> None:
    counts = Counts()
    counts.loop_lag.observe(0.0007)
    counts.detection["trainer"].observe(0.0002)
    samples = read(Metrics(Standing(group(round=4)), counts, 0.0))
    assert value(samples, "rankd_loop_lag_seconds_bucket", le="0.0005") == 0
    assert value(samples, "rankd_loop_lag_seconds_bucket", le="0.001") == 1
    assert value(samples, "rankd_detection_seconds_bucket", group="trainer", le="0.00025") == 1
    assert value(samples, "rankd_rendezvous_round", group="trainer") == 4
    assert value(samples, "rankd_rendezvous_hosts", group="trainer") == 1


def test_what_watches_over_workers_is_asked_at_each_scrape() -> None:
    @dataclass
    class Watch:
        timers: int
        heartbeats: int
        refusals: dict[str, int]

    counts = Counts()
    watch = Watch(3, 1000, {"line": 7, "timer": 0})
    counts.watched = {"trainer": watch}
    metrics = Metrics(Standing(group(), group("cache")), counts, 0.0)
    assert value(read(metrics), "rankd_timers_active", group="trainer") == 3
    watch.timers, watch.heartbeats = 2, 1001
    samples = read(metrics)
    assert value(samples, "rankd_timers_active", group="trainer") == 2
    assert value(samples, "rankd_timers_active", group="cache") == 0
    assert value(samples, "rankd_heartbeats_total", group="trainer") == 1001
    assert value(samples, "rankd_refusals_total", group="trainer", what="line") == 7
    assert value(samples, "rankd_refusals_total", group="trainer", what="timer") == 0


def test_expired_timers_and_formed_rendezvous_are_counted_from_their_events() -> None:
    counts = Counts()
    counts.observe(Event("timer.expired", "error", 1.0, "a timer has expired", "trainer"))
    counts.observe(Event("rendezvous.formed", "info", 1.0, "formed", "trainer", {"duration_ms": 30.0}))
    samples = read(Metrics(Standing(), counts, 0.0))
    assert value(samples, "rankd_timers_expired_total", group="trainer") == 1
    assert value(samples, "rankd_rendezvous_seconds_sum", group="trainer") == 0.03


def test_every_family_is_ours_and_says_what_it_is() -> None:
    body, _ = Metrics(Standing(), Counts(), 0.0).exposition("")
    families = list(parser.text_string_to_metric_families(body.decode()))
    assert len(families) == 27
    for family in families:
        assert family.name.startswith("rankd_")
        assert family.documentation.endswith(".")


async def test_openmetrics_is_spoken_to_those_who_ask_for_it(serve: Serve) -> None:
    served = await serve()
    client = await served.client()
    assert (await client.get("/readyz/trainer")).status == 200
    reply = await client.get("/metrics", Accept=f"{OPENMETRICS}, text/plain;q=0.5")
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    read_strictly: Callable[[str], Iterator[Metric]] = openmetrics_parser.text_string_to_metric_families
    families = {family.name: family for family in read_strictly(reply.text)}
    (request,) = families["rankd_http_requests"].samples
    assert (request.labels, request.value) == ({"path": "/readyz/GROUP", "code": "200"}, 1)
    plain = await client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert plain.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=x",
        "application/openmetrics-text; version=1.1.é",
        "text/plain; version=..",
        ",,;;=",
    ],
)
async def test_an_accept_header_of_nonsense_is_no_error(serve: Serve, accept: str) -> None:
    reply = await (await (await serve()).client()).get("/metrics", Accept=accept)
    assert reply.status == 200
    assert reply.headers["content-type"].split(";")[0] in {"text/plain", "application/openmetrics-text"}


def test_a_group_of_any_name_is_a_valid_label() -> None:
    name = 'a "quoted"\\name\nö'
    samples = read(Metrics(Standing(group(name)), Counts(), 0.0))
    assert value(samples, "rankd_group_ready", group=name) == 1


def test_every_state_that_a_worker_can_be_in_is_told() -> None:
    """Those of the contract, so that nobody is missing from the sum."""
    states = re.search(r"``state``: ([^.]+)\.", WorkerView.__doc__ or "")
    assert states is not None
    assert set(re.split(r",\s+", states[1])) == set(WORKER_STATES)
