"""The console's lines: what a person reads at night."""

from __future__ import annotations

import re
from typing import Any

import pytest

from supervisor import clock
from supervisor.core import events
from supervisor.core.events import Event, Who
from supervisor.core.messages import ExitStatus
from supervisor.report.log import Records

WHO = Who("trainer", 2, 2, 0)
STORY = (
    events.daemon_ready(0.0, 1.213),
    events.group_starting(0.0, "trainer", 0, 4),
    events.worker_started(0.0, WHO, 5002),
    events.group_ready(0.0, "trainer", 0, 0.012),
    events.worker_exited(2.0, WHO, 5002, ExitStatus(3), "itself", 2.01),
    events.worker_failed(2.0, WHO, "exited with code 3 after 2.0 s", root_cause=True, pid=5002, exit_code=3),
    events.group_restarting(2.0, "trainer", 0, "rank 2 exited with code 3 after 2.0 s", "exit", 2, 1.5),
    events.group_restarting(2.0, "trainer", 0, "rank 2 exited with code 3 after 2.0 s", "exit", None, 0, rank=2),
    events.worker_exited(3.0, WHO, 5003, ExitStatus(None, 9), "outside", 61.0),
    events.group_succeeded(4.0, "trainer", 1, 1, {"return_values": {"0": "ä", "1": None}}),
    Event("some.detail", "debug", 3.0, "a detail"),
)
TOLD = """\
      rankd        up after 1213 ms
      trainer      starts 4 workers (attempt 0)
      trainer/2    started (pid 5002)
      trainer      is ready (after 12 ms)
      trainer/2    exited with code 3 (pid 5002, after 2.0 s)
ERROR trainer/2    failed: exited with code 3 after 2.0 s (pid 5002)
WARN  trainer      restarts in 1.5 s (2 left): rank 2 exited with code 3 after 2.0 s
WARN  trainer/2    restarts (no limit): rank 2 exited with code 3 after 2.0 s
      trainer/2    was killed by SIGKILL (pid 5003, from outside, after 1 min 1 s)
      trainer      has succeeded after 1 restart (returned {"0": "ä", "1": null})
debug rankd        a detail
"""


def console(*told: Event, colour: bool = False, **options: Any) -> str:
    lines: list[bytes] = []
    log = Records(
        lines.append, service="rankd", host="host-a", run_id="job-42", level="debug", format="console", colour=colour
    )
    for event in told:
        log.tell(event)
    return b"".join(lines).decode()


def test_the_sentence_is_the_line_and_only_what_it_leaves_out_is_added() -> None:
    assert re.sub(r"^\d\d:\d\d:\d\d\.\d{3} ", "", console(*STORY), flags=re.MULTILINE) == TOLD


def test_time_is_local_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall", lambda at: 1_800_000_000.0625 + at)
    monkeypatch.setattr("time.localtime", __import__("time").gmtime)
    assert console(Event("x", "info", 1.0, "x")).startswith("08:00:01.062 ")


def test_without_colour_there_is_not_one_escape() -> None:
    assert "\x1b" not in console(*STORY)


def test_colour_adds_nothing_but_colour() -> None:
    coloured = console(*STORY, colour=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured)[13:] == console(*STORY)[13:]
    assert "\x1b[1;31mERROR\x1b[0m" in coloured
    assert "\x1b[33mWARN \x1b[0m" in coloured
    for line in coloured.splitlines():
        assert line.count("\x1b[0m") * 2 == line.count("\x1b["), "every colour is switched off again"


def test_a_message_cannot_touch_the_terminal() -> None:
    line = console(
        Event("x", "info", 0.0, "evil \x1b]0;title\x07\x9b2J\r\nrank 0 is fine\u2028\udc80", "g", {"rank": 1})
    )
    assert line.endswith("evil \\e]0;title\\u0007\\u009b2J\\r\\nrank 0 is fine\\u2028\\udc80\n")


def test_an_endless_message_ends() -> None:
    assert len(console(Event("x", "info", 0.0, "x" * 100_000))) < 2200


def test_the_column_of_who_grows_with_what_comes_and_stays() -> None:
    told = [Event("x", "info", 0.0, "!", group) for group in ("a", "a-very-long-group", "a")]
    first, second, third = (line.index("!") for line in console(*told).splitlines())
    assert first < second == third


def test_dropped_lines_leave_a_mark_for_people_too() -> None:
    log = Records(lambda _line: None, service="rankd", host="h", run_id="r", format="console")
    assert "WARN  rankd        512 bytes of records were dropped" in log.dropped(512).decode()
