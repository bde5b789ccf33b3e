"""The status page as it is written; what a browser makes of it is seen in tests/interop."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from supervisor import clock
from supervisor.core import events
from supervisor.core.events import Who
from supervisor.core.health import Snapshot, WorkerView
from supervisor.core.messages import ExitStatus
from supervisor.report.history import CAUSES, STRETCHES, History
from supervisor.report.page import TROUBLES, render
from tests.report.conftest import Serve
from tests.report.views import LEADS, Standing, group

ABOUT = {"service": "rankd", "host": "host-a", "run_id": "job-42"}
VOID = {"meta", "link", "br", "img", "input"}


class Seen(HTMLParser):
    """What is in a page: its tags, and its text without style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.text += data

    def classes(self, tag: str) -> list[str | None]:
        return [attrs.get("class") for name, attrs in self.tags if name == tag]


def seen(snapshot: Snapshot, history: History | None = None, about: dict[str, str] = ABOUT) -> Seen:
    return Seen(render(snapshot, about, history or History()))


def failed(at: float, reason: str, *, attempt: int = 0, root: bool = True) -> Any:
    status = ExitStatus(code=3)
    return events.worker_failed(at, Who("trainer", 1, 1, attempt), reason, root_cause=root, status=status, exit_code=3)


async def test_the_page_allows_nothing_but_its_own_style_and_script(serve: Serve) -> None:
    reply = await (await (await serve()).client()).get("/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    page = Seen(reply.text)
    assert not [attrs for _, attrs in page.tags if "style" in attrs or any(name.startswith("on") for name in attrs)]
    assert not [attrs for name, attrs in page.tags if name in {"script", "link"} and attrs.get("src")]


async def test_the_page_shows_what_status_says(serve: Serve) -> None:
    served = await serve(
        Standing(group(ready=False, phase="backing_off", next="starts attempt 2", next_at=clock.now() + 9))
    )
    page = Seen((await (await served.client()).get("/")).text)
    assert served.standing.looks == [True], "every worker is on it"
    assert "not ready" in page.text
    assert re.search(r"Next: starts attempt 2 in (9|8\.\d)", page.text)
    assert page.classes("li").count("starting") == 2


def test_a_draining_daemon_says_so_first() -> None:
    page = seen(Snapshot(10.0, "draining", {"trainer": group()}, "SIGTERM"))
    assert page.text.lstrip().startswith("draining: rankd on host-a")
    assert "draining: SIGTERM" in page.text


def test_a_job_that_is_done_is_no_failure() -> None:
    done = group(ready=False, phase="finished", succeeded=True)
    page = seen(Snapshot(10.0, "running", {"trainer": done}))
    assert page.text.lstrip().startswith("done: ")
    assert "verdict ready" in page.classes("p")


def test_a_group_that_was_stopped_is_not_called_failed() -> None:
    for fate, shown in ((True, "failed"), (False, "stopped")):
        view = group(ready=False, phase="finished", failed=fate)
        assert f"phase {'failed' if fate else 'finished'}" in seen(Snapshot(9.0, "running", {"a": view})).classes(
            "span"
        )
        assert shown in seen(Snapshot(9.0, "running", {"a": view})).text


def test_workers_in_trouble_are_told_of_in_words_and_no_more_than_can_be_read() -> None:
    bad = tuple(WorkerView(rank, rank, "failed", 1.0, None, 0, "exited with code 3") for rank in range(TROUBLES + 5))
    view = replace(group(size=len(bad)), workers=bad)
    text = seen(Snapshot(10.0, "running", {"trainer": view})).text
    assert "rank 0 failed 9.0 s ago: exited with code 3" in text
    assert "and 5 more" in text
    assert f"rank {TROUBLES} " not in text


def test_peers_that_were_stopped_are_no_trouble() -> None:
    view = replace(group(), workers=(WorkerView(0, 0, "stopped", 1.0, exit="was killed by SIGTERM"),))
    assert ("ul", {"class": "troubles"}) not in seen(Snapshot(10.0, "running", {"trainer": view})).tags


def test_a_host_that_waits_for_a_place_says_so_and_for_how_long() -> None:
    view = replace(LEADS, state="spare", waiting_since=70.0, hosts=None)
    page = seen(Snapshot(100.0, "running", {"trainer": group(ready=False, hosts=0, rendezvous=view)}))
    for fact in ("this hostspare for 30 s", "round3 formed", "hosts0 of 1 to 2", "leaderhost-a"):
        assert fact in page.text
    assert "All hosts" not in page.text, "it has not read the records of the others"


def test_the_host_that_leads_shows_all_hosts() -> None:
    page = seen(Snapshot(100.0, "running", {"trainer": group(rendezvous=LEADS)}))
    assert ("details", {"id": "hosts-trainer"}) in page.tags
    assert "All hosts: 2 running, 1 spare" in page.text
    assert "host-brunning10.0.0.248" in page.text
    assert "host-cspare10.0.0.38" in page.text


def test_nothing_that_somebody_else_has_named_is_markup() -> None:
    evil = '<script>alert(1)</script>"\'&<b x="\ud800\u202e'
    worker = WorkerView(0, 0, "unready", 1.0, 5, 0, evil, evil, evil, 3, ((evil, 1.0),))
    view = group("tra.in-er_1", ready=False, why=evil, next=evil, workers=(worker,))
    history = History()
    history.observe(events.group_starting(0.0, "tra.in-er_1", 0, 1))
    history.observe(events.worker_failed(1.0, Who("tra.in-er_1", 0, 0, 0), evil, root_cause=True))
    about = {"service": evil, "host": evil, "run_id": evil}
    page = seen(Snapshot(10.0, "stopping", {view.name: view}, evil), history, about)
    assert [name for name, _ in page.tags].count("script") == 1
    assert "b x" not in {name for name, _ in page.tags}
    assert page.text.count("<script>alert(1)</script>") >= 8


def test_the_strip_shows_each_stretch_as_long_as_it_was_and_where_it_failed() -> None:
    history = History()
    for event in (
        events.group_starting(100.0, "trainer", 0, 2),
        events.group_ready(110.0, "trainer", 0, 10.0),
        failed(150.0, "exited with code 3"),
        failed(150.1, "was stopped by its peer", root=False),
        events.group_stopping(150.0, "trainer", 0, 1, 15, "rank 1 failed"),
        events.group_starting(160.0, "trainer", 1, 2),
    ):
        history.observe(event)
    page = seen(Snapshot(200.0, "running", {"trainer": group()}), history)
    stretches = [(attrs["class"], attrs["x"], attrs["width"]) for name, attrs in page.tags if name == "rect"]
    assert stretches == [
        ("starting", "0.000%", "10.000%"),
        ("ready", "10.000%", "40.000%"),
        ("stopping", "50.000%", "10.000%"),
        ("starting", "60.000%", "40.000%"),
    ]
    assert [attrs["cx"] for name, attrs in page.tags if name == "circle"] == ["50.000%"]
    assert "Exited with code 3" in page.text
    assert "its peer" not in page.text, "no root cause"


def test_an_instant_is_wide_enough_to_be_seen_and_stays_within_the_strip() -> None:
    history = History()
    history.observe(events.group_starting(0.0, "trainer", 0, 2))
    history.observe(events.group_ready(1000.0, "trainer", 0, 1000.0))
    page = seen(Snapshot(1000.0, "running", {"trainer": group()}), history)
    places = [(attrs["x"], attrs["width"]) for name, attrs in page.tags if name == "rect"]
    assert places == [("0.000%", "100.000%"), ("99.700%", "0.300%")]


def test_a_history_of_weeks_keeps_what_is_newest_and_no_more() -> None:
    history = History()
    for attempt in range(STRETCHES + 7):
        history.observe(events.group_starting(float(attempt), "trainer", attempt, 2))
        history.observe(failed(float(attempt), "exited with code 3 after 'rm -rf /home/me'", attempt=attempt))
    assert [stretch.attempt for stretch in history.stretches("trainer")] == list(range(7, STRETCHES + 7))
    causes = history.causes("trainer")
    assert [cause.attempt for cause in causes] == list(range(STRETCHES + 6, STRETCHES + 6 - CAUSES, -1))
    assert causes[0].reason == "exited with code 3 after ...", "what stands in quotes is for records"
    assert not history.stretches("nobody")
    assert not history.causes("nobody")
