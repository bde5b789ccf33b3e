"""torch's pipe is always open, is read whole, and takes nothing on trust: real pipes, real clients, any bytes."""

from __future__ import annotations

import json
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor import clock
from supervisor.core.timers import TimerRequest
from supervisor.host import timer_pipe
from supervisor.host.timer_pipe import LINE, TimerLines, TimerPipe, parse
from tests.host.observing import open_fds, until

MEASURED = b'{"version": 1, "pid": 1402, "scope_id": "s1", "expiration_time": 1795349171.8561916, "signal": 9}'
"""What torch 2.13 writes."""


def line(**fields: Any) -> bytes:
    return json.dumps({**json.loads(MEASURED), **fields}).encode()


class Door:
    """A pipe, and what has come through it, wake-up by wake-up."""

    def __init__(self, path: Path) -> None:
        self.came: list[list[TimerRequest]] = []
        self.pipe = TimerPipe(str(path), self.came.append)

    @property
    def requests(self) -> list[TimerRequest]:
        return [request for requests in self.came for request in requests]

    def send(self, data: bytes) -> None:
        """As a client of torch does."""
        fd = os.open(self.pipe.path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            assert os.write(fd, data) == len(data)
        finally:
            os.close(fd)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "timers")
    yield made
    made.pipe.close()


def test_torchs_lines_are_understood() -> None:
    assert parse(MEASURED, 0.0) == TimerRequest(1402, "s1", 1795349171.8561916, 9)
    assert parse(line(expiration_time=1795349171), -1795349000.0) == TimerRequest(1402, "s1", 171.0, 9)
    assert parse(line(expiration_time=-1, signal=0), -1795349000.0) == TimerRequest(1402, "s1", None, 0)
    assert parse(line(signal=-1), 0.0) == TimerRequest(1402, "s1", 1795349171.8561916, 0)
    assert parse(line(scope_id="\ud800ü"), 0.0) == TimerRequest(1402, "?ü", 1795349171.8561916, 9)


@pytest.mark.parametrize(
    "refused",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        MEASURED.decode().encode("utf-16-le"),
        b"[" * LINE,
        b"9" * LINE,
        b'{"version": 1}',
        line(version=2),
        line(version="1"),
        line(pid=0),
        line(pid=-5),
        line(pid=True),
        line(pid="1402"),
        line(pid=1 << 23),
        line(scope_id=7),
        line(scope_id="x" * LINE),
        line(expiration_time="soon"),
        line(expiration_time=None),
        line(expiration_time=True),
        line(expiration_time=float("nan")),
        line(expiration_time=float("inf")),
        line(expiration_time=10**400),
        line(signal=65),
        line(signal=9.0),
        line(signal=None),
    ],
)
def test_what_is_not_torchs_is_refused_and_counted(refused: bytes) -> None:
    lines = TimerLines()
    assert lines.feed(refused + b"\n" + MEASURED + b"\n", 0.0) == [parse(MEASURED, 0.0)]
    assert (lines.refused, lines.taken) == (1, 1)


def test_half_a_line_in_front_of_anothers_request_costs_nobody_a_timer() -> None:
    lines = TimerLines()
    assert lines.feed(MEASURED[:40] + MEASURED + b"\n", 0.0) == [parse(MEASURED, 0.0)]


def test_a_megabyte_without_end_is_one_refusal_and_is_not_kept() -> None:
    lines = TimerLines()
    for _ in range(16):
        assert lines.feed(b"x" * 65536, 0.0) == []
        assert len(lines._half) <= LINE
    assert lines.feed(b"\n" + MEASURED + b"\n", 0.0) == [parse(MEASURED, 0.0)]
    assert lines.refused == 1


@given(st.lists(st.binary(max_size=60)), st.lists(st.integers(1, 50)))
def test_however_a_stream_is_cut_the_same_requests_come_out(junk: list[bytes], cuts: list[int]) -> None:
    whole = b"\n".join([MEASURED, *junk, b"", MEASURED, b""])
    at_once = TimerLines()
    expected = at_once.feed(whole, 0.0)
    cut = TimerLines()
    found = []
    rest = whole
    for size in cuts:
        found += cut.feed(rest[:size], 0.0)
        rest = rest[size:]
    found += cut.feed(rest, 0.0)
    assert found == expected
    assert (cut.refused, cut.taken) == (at_once.refused, at_once.taken)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(json.loads(MEASURED), JSON)), JSON)
@example({"expiration_time": float("-inf")}, None)
def test_fields_of_any_kind_give_a_request_that_is_sound_or_none(fields: dict[str, Any], other: Any) -> None:
    for text in (line(**fields), json.dumps(other).encode()):
        request = parse(text, 0.0)
        if request is not None:
            assert request.pid > 0
            assert 0 <= request.signal <= 64
            assert request.at is None or 0 <= request.at < float("inf")
            request.scope.encode()


@given(st.binary(max_size=10_000))
def test_any_bytes_move_nothing_but_a_counter(junk: bytes) -> None:
    lines = TimerLines()
    assert lines.feed(junk.replace(b"version", b"verzion") + b"\n", 0.0) == []
    assert lines.taken == 0
    assert lines.refused >= 1
    assert lines.feed(MEASURED + b"\n", 0.0) == [parse(MEASURED, 0.0)]


def test_the_pipe_is_ours_alone_and_has_room_for_a_thousand_requests(door: Door) -> None:
    found = os.stat(door.pipe.path)
    assert stat.S_ISFIFO(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    for _ in range(600):
        door.send(MEASURED + b"\n")


def test_there_is_a_reader_before_and_after_every_client(door: Door) -> None:
    for _ in range(3):
        door.send(MEASURED + b"\n")
        door.pipe.drain()
    assert len(door.came) == 3
    door.pipe.close()
    door.pipe.close()
    door.pipe.drain()
    assert not os.path.exists(door.pipe.path)


async def test_a_wall_clock_instant_is_turned_into_ours_at_the_door(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.pipe.listen()
    expected = clock.now() + 60
    door.send(line(expiration_time=time.time() + 60) + b"\n")
    await until(lambda: door.requests)
    monkeypatch.setattr(time, "time", lambda: 1e6)  # the clock is set: what has been taken does not move
    assert door.requests[0].at == pytest.approx(expected, abs=5)


async def test_all_that_is_there_is_read_in_one_wake_up(door: Door) -> None:
    for _ in range(500):
        door.send(MEASURED + b"\n")
    door.pipe.listen()
    await until(lambda: door.came)
    assert [len(requests) for requests in door.came] == [500]


async def test_an_idle_pipe_wakes_nobody_though_clients_come_and_go(door: Door) -> None:
    door.pipe.listen()
    for _ in range(5):
        os.close(os.open(door.pipe.path, os.O_WRONLY | os.O_NONBLOCK))
    poll = select.poll()
    poll.register(door.pipe._fd, select.POLLIN)
    assert poll.poll(0) == []


def writing_without_end(path: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["dd", "if=/dev/zero", f"of={path}", "bs=1M"], stderr=subprocess.DEVNULL)


async def test_a_writer_that_never_stops_does_not_keep_the_loop(door: Door) -> None:
    with writing_without_end(door.pipe.path) as writer:
        try:
            door.pipe.listen()
            await until(lambda: door.pipe.lines.refused)
            for _ in range(5):
                before = clock.now()
                door.pipe.drain()
                assert clock.now() - before < 5
            assert len(door.pipe.lines._half) <= LINE
        finally:
            writer.kill()


def test_what_was_there_is_replaced_and_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "timers").write_text("of an earlier daemon")
    before = open_fds()
    made = Door(tmp_path / "timers")
    made.send(MEASURED + b"\n")
    made.pipe.close()
    with pytest.raises(FileNotFoundError):
        TimerPipe(str(tmp_path / "nowhere" / "timers"), print)
    assert open_fds() == before


GIVES = """
import sys
from supervisor.host.timer_pipe import TimerPipe
try:
    TimerPipe(sys.argv[1], print, user=(12345, 12345))
except PermissionError:
    print("refused")
"""


def test_a_pipe_that_cannot_be_given_to_its_user_is_not_left_behind(tmp_path: Path) -> None:
    powerless = [sys.executable, "tests/powerless.py", sys.executable, "-c", GIVES, str(tmp_path / "timers")]
    assert subprocess.check_output(powerless, env={"PYTHONPATH": os.getcwd()}, text=True) == "refused\n"
    assert os.listdir(tmp_path) == []


NUMBERS = (
    st.integers() | st.floats() | st.sampled_from(["0", "-0", "-1", "007", "1.", "-0.5", "1e3", "1795349171.8561916"])
)


@given(st.lists(st.tuples(NUMBERS, st.text(max_size=5), NUMBERS, NUMBERS), min_size=1, max_size=3))
@example([(1402, "s1", 1795349171.8561916, 9), (1402, "s1", -1, 0)])
@example([(1402, "s1", "-0", 9)])
@example([(1402, "s1", "007", 9)])
def test_what_is_read_at_once_is_what_is_read_line_by_line(fields: list[tuple[object, str, object, object]]) -> None:
    form = '{{"version": 1, "pid": {}, "scope_id": {}, "expiration_time": {}, "signal": {}}}'
    lines = [form.format(pid, json.dumps(scope), at, signal).encode() for pid, scope, at, signal in fields]
    expected = [request for request in (parse(each, 5.0) for each in lines) if request is not None]
    assert TimerLines().feed(b"\n".join([*lines, b""]), 5.0) == expected


def test_torchs_own_spelling_is_read_at_once() -> None:
    release = line(expiration_time=-1, signal=0)
    assert timer_pipe._as_written(b"\n".join([MEASURED, release]), 5.0) == [parse(MEASURED, 5.0), parse(release, 5.0)]
