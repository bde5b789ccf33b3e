"""Records: what is in a line, in which order, and that whatever is told comes out as one valid line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import clock
from supervisor.core import events
from supervisor.core.events import Event, Level, Who
from supervisor.core.messages import ExitStatus
from supervisor.plan import Format
from supervisor.report.log import LINE_LIMIT, Records, resolve_format, to_json

WHO = Who("trainer", 3, 1, 2)
KILLED = events.worker_exited(10.0, WHO, 4711, ExitStatus(None, 9, False, 1 << 20, 1.5, 0.25), "outside", 12.3456)


def records(**options: Any) -> tuple[Records, list[bytes]]:
    lines: list[bytes] = []
    return Records(lines.append, service="rankd", host="host-a", run_id="job-42", **options), lines


def told(event: Event, **options: Any) -> dict[str, Any]:
    log, lines = records(**options)
    log.tell(event)
    (line,) = lines
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    record: dict[str, Any] = json.loads(line)
    return record


def test_a_record_is_one_line_of_json_with_its_fields_in_order() -> None:
    record = told(KILLED)
    timestamp = record.pop("timestamp")
    assert abs(clock.wall(10.0) - _seconds(timestamp)) < 0.01
    assert timestamp.endswith("Z")
    assert list(record.items()) == [
        ("level", "info"),
        ("event", "worker.exited"),
        ("message", "rank 3 was killed by SIGKILL"),
        ("seq", 1),
        ("service", "rankd"),
        ("host", "host-a"),
        ("run_id", "job-42"),
        ("group", "trainer"),
        ("rank", 3),
        ("local_rank", 1),
        ("attempt", 2),
        ("pid", 4711),
        ("signal", "SIGKILL"),
        ("core_dumped", False),
        ("by", "outside"),
        ("ran_for_ms", 12345.6),
        ("max_rss_bytes", 1048576),
        ("user_cpu_s", 1.5),
        ("system_cpu_s", 0.25),
    ]


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def test_an_event_of_no_group_has_no_group() -> None:
    assert "group" not in told(events.daemon_ready(1.0, 0.2))


def test_seq_counts_the_lines_without_gaps_and_levels_below_ours_are_silent() -> None:
    log, lines = records(level="warning")
    for event in (
        KILLED,
        Event("a", "error", 0.0, "a"),
        Event("b", "debug", 0.0, "b"),
        Event("c", "warning", 0.0, "c"),
    ):
        log.tell(event)
    mark = log.dropped(1234)
    log.tell(Event("d", "error", 0.0, "d"))
    assert [(record["event"], record["seq"]) for record in map(json.loads, [*lines[:2], mark, *lines[2:]])] == [
        ("a", 1),
        ("c", 2),
        ("log.lines_dropped", 3),
        ("d", 4),
    ]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_mark_of_dropped_lines_is_written_at_every_level(level: Level) -> None:
    log, lines = records(level=level)
    mark = json.loads(log.dropped(99))
    assert (mark["level"], mark["dropped_bytes"], lines) == ("warning", 99, [])


@pytest.mark.parametrize(("level", "priority"), [("error", 3), ("warning", 4), ("info", 6), ("debug", 7)])
def test_for_the_journal_a_line_begins_with_its_priority(level: Any, priority: int) -> None:
    log, lines = records(level="debug", format="journal")
    log.tell(Event("x", level, 0.0, "x"))
    assert lines[0].startswith(f'<{priority}>{{"timestamp"'.encode())


@pytest.mark.parametrize(
    ("wanted", "journal", "tty", "format"),
    [
        ("auto", True, False, "journal"),
        ("auto", False, True, "console"),
        ("auto", False, False, "json"),
        ("auto", True, True, "journal"),
        ("json", True, True, "json"),
        ("console", True, False, "console"),
        ("journal", False, True, "journal"),
    ],
)
def test_auto_is_what_stdout_is_and_a_wish_is_a_wish(wanted: Format, journal: bool, tty: bool, format: str) -> None:
    assert resolve_format(wanted, journal=journal, tty=tty) == format


def test_a_field_cannot_pass_itself_off_as_another() -> None:
    record = told(Event("x", "info", 0.0, "x", None, {"event": "y", "seq": 99, "level": "error", "service": "z"}))
    assert (record["event"], record["seq"], record["level"], record["service"]) == ("x", 1, "info", "rankd")


def test_text_of_any_language_is_readable_in_the_raw_line() -> None:
    assert "größer 漢字" in to_json({"message": "größer 漢字"}).decode()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("caf\udce9.py", "caf\ufffd.py"),
        ("\ud83d\ude00", "\U0001f600"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (b"raw\xff", "raw\\xff"),
        ({1, 2}, [1, 2]),
        ({("a", 1): Path("/x"), 2: 3}, {"<tuple>": "<PosixPath>", "2": 3}),
    ],
)
def test_what_json_cannot_say_is_said_in_words(value: Any, said: Any) -> None:
    record = told(Event("x", "info", 0.0, "x", None, {"field": value, "rank": 1}))
    assert (record["field"], record["rank"]) == (said, 1)


def test_an_object_that_strayed_into_a_field_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush-hush")
    process: Any = subprocess.CompletedProcess(["login", "--password=hush-hush"], 0)
    for format in ("json", "journal", "console"):
        log, lines = records(format=format)
        log.tell(Event("x", "info", 0.0, "x", None, {"env": os.environ, "process": process, "reason": "because"}))
        assert not any(b"hush" in line for line in lines)
    record = told(Event("x", "info", 0.0, "x", None, {"env": os.environ, "process": process}))
    assert (record["env"], record["process"]) == ("<_Environ>", "<CompletedProcess>")


def test_a_number_too_long_to_be_written_does_not_stop_the_others() -> None:
    record = told(Event("x", "info", 0.0, "x", None, {"field": {10**5000: 10**5000}, "rank": 1}))
    ((key, value),) = record["field"].items()
    assert key == value == hex(10**5000)
    assert record["rank"] == 1


def test_a_value_that_contains_itself_comes_to_an_end() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert told(Event("x", "info", 0.0, "x", None, {"field": value}))["field"][:1] == [1]


def test_a_long_field_keeps_its_beginning_and_its_end() -> None:
    tail = "Traceback: first line\n" + "x" * 100_000 + "\nValueError: the last line"
    record = told(Event("x", "info", 0.0, "short", "trainer", {"rank": 1, "stderr_tail": tail, "pid": 7}))
    assert record["stderr_tail"].startswith("Traceback: first line")
    assert record["stderr_tail"].endswith("ValueError: the last line")
    assert "characters cut" in record["stderr_tail"]
    assert (record["message"], record["rank"], record["pid"]) == ("short", 1, 7)


KNOWN = ("event", "seq", "message", "rank", "pid", "by", "ran_for_ms", "duration_ms", "reason", "error")
any_text = st.text(st.characters(exclude_categories=()))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=30,
)


@given(
    any_text,
    st.dictionaries(
        any_text | st.sampled_from(KNOWN),
        values | st.text().map(lambda text: (text + "\x00é\udcff") * 9000),
        max_size=6,
    ),
    st.sampled_from(["json", "journal", "console"]),
)
def test_whatever_is_told_is_one_bounded_line_of_valid_text(message: str, fields: dict[str, Any], format: Any) -> None:
    log, lines = records(format=format, colour=False)
    log.tell(Event("any.event", "info", 0.0, message, "trainer", fields))
    (line,) = lines
    assert line.endswith(b"\n")
    text = line[:-1].decode()
    assert len(line) <= LINE_LIMIT + len(b"<6>\n")
    if format == "console":
        assert not any(character < " " or "\x7f" <= character < "\xa0" for character in text)
    else:
        assert "\n" not in text
        json.loads(text.removeprefix("<6>"), parse_constant=_no_such_word)


def _no_such_word(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def test_fifty_thousand_keys_still_make_one_bounded_line() -> None:
    line = to_json({"event": "x", **{f"key{number}": "y" * 10 for number in range(50_000)}})
    assert len(line) <= LINE_LIMIT
    assert json.loads(line)["event"] == "x"


Apart = Callable[[str], None]


@pytest.fixture
def apart(tmp_path: Path) -> Apart:
    """Runs a script in a process of its own, where rich is a stand-in, whether it is installed or not."""
    package = tmp_path / "rich"
    package.mkdir()
    (package / "__init__.py").write_text("STAND_IN = True\n")
    for module in ("console", "traceback", "pretty"):
        (package / f"{module}.py").write_text("class Console: pass\nclass Traceback: pass\n")

    def run(script: str) -> None:
        root = Path(__file__).parents[2]
        code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]\n{textwrap.dedent(script)}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr

    return run


def test_structlog_does_not_bring_rich_along_and_leaves_it_to_those_who_want_it(apart: Apart) -> None:
    apart(
        """
        from supervisor.report import log
        assert "structlog" in sys.modules
        loaded = [name for name in ("rich", "better_exceptions", "colorama", "twisted") if name in sys.modules]
        assert not loaded, loaded
        import rich
        assert rich.STAND_IN
        """
    )


def test_whoever_has_imported_rich_before_keeps_it(apart: Apart) -> None:
    apart(
        """
        import rich
        from supervisor.report import log
        assert sys.modules["rich"] is rich
        """
    )


@pytest.mark.parametrize("format", ["json", "journal", "console"])
def test_whoever_keeps_records_is_given_their_number_and_the_same_json_in_every_format(format: str) -> None:
    log, lines = records(format=format, level="info")
    assert log.tell(Event("x.debug", "debug", 1.0, "said by nobody")) is None
    log.tell(KILLED)
    told = log.tell(KILLED)
    assert told is not None
    seq, record = told
    line = record if isinstance(record, bytes) else log.line(record, seq)
    assert (seq, json.loads(line)["seq"], json.loads(line)["event"]) == (2, 2, "worker.exited")
    if format != "console":
        assert lines[-1].endswith(line + b"\n")
