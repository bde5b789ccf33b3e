"""The console takes whole lines and never makes us wait: real pipes, terminals, sockets and files."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from supervisor.host.console import Console
from tests.host.observing import open_fds, until


def lines(count: int, size: int = 100) -> bytes:
    return b"".join(b"%0*d\n" % (size - 1, number) for number in range(count))


def mark(missing: int) -> bytes:
    return b"<%d bytes missing>\n" % missing


def read_all(fd: int) -> bytes:
    """Everything that is in a pipe or socket now."""
    os.set_blocking(fd, False)
    parts = []
    try:
        while part := os.read(fd, 1 << 20):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts)


async def read_until(fd: int, end: bytes) -> bytes:
    """What comes through ``fd``, until it ends so."""
    os.set_blocking(fd, False)
    got = b""
    with anyio.fail_after(20):
        while not got.endswith(end):
            await anyio.wait_readable(fd)
            got += os.read(fd, 1 << 16)
    return got


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file grows beyond ``size`` meanwhile: write(2) gives EFBIG, as it gives ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.told: list[int] = []
        self.broken: list[str] = []

    def console(self, **options: Any) -> Console:
        return Console(self.writing, mark=mark, on_dropped=self.told.append, on_broken=self.broken.append, **options)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for fd in (made.reading, made.writing):
        with suppress(OSError):  # the test may have closed it
            os.close(fd)


def test_a_regular_file_is_written_at_the_offset_that_all_its_holders_share() -> None:
    file = os.memfd_create("console")
    console = Console(file)
    os.write(file, b"before\n")
    assert console.write(b"record\n")
    console.settle()
    os.write(file, b"after\n")
    console.settle()
    assert os.pread(file, 100, 0) == b"before\nrecord\nafter\n"
    console.close()
    os.close(file)


async def test_a_full_pipe_is_not_waited_for_and_gets_every_line_once_it_is_read(pipe: Pipe) -> None:
    console = pipe.console()
    sent = lines(5000)
    for at in range(0, len(sent), 700):
        assert console.write(sent[at : at + 700])
    assert await read_until(pipe.reading, sent[-100:]) == sent
    assert (console.dropped_bytes, pipe.told, pipe.broken) == (0, [], [])
    console.close()


def test_the_flags_that_others_share_stay_as_they_were(pipe: Pipe) -> None:
    flags = fcntl.fcntl(pipe.writing, fcntl.F_GETFL)
    console = pipe.console()
    console.write(lines(2000))
    assert fcntl.fcntl(pipe.writing, fcntl.F_GETFL) == flags
    console.close()


async def test_what_is_beyond_the_bound_is_dropped_in_whole_chunks_counted_and_marked_where_it_is_missing(
    pipe: Pipe,
) -> None:
    console = pipe.console(limit=100_000)
    chunks = [b"".join(b"%09d\n" % number for number in range(at, at + 50)) for at in range(0, 50_000, 50)]
    accepted = [chunk for chunk in chunks if console.write(chunk)]
    missing = len(b"".join(chunks)) - len(b"".join(accepted))
    assert missing > 0
    assert accepted == chunks[: len(accepted)]
    assert (console.dropped_bytes, pipe.told) == (missing, [])
    assert await read_until(pipe.reading, b"missing>\n") == b"".join(accepted) + mark(missing)
    assert console.write(b"the next line\n")
    assert read_all(pipe.reading) == b"the next line\n"
    assert (pipe.told, console.dropped_bytes) == ([missing], missing)
    console.close()


def test_an_urgent_line_finds_room_where_others_are_dropped_and_the_bound_holds_for_it_too(pipe: Pipe) -> None:
    console = pipe.console(limit=10_000, reserve=500)
    while console.write(lines(10)):
        pass
    record = b"r" * 99 + b"\n"
    assert console.write(record, urgent=True)
    assert not console.write(b"line\n")
    urgent = 1
    while console.write(record, urgent=True):
        urgent += 1
    assert urgent < 20
    console.close()


def test_a_chunk_that_does_not_fit_into_the_pipe_is_finished_before_anything_else_is_written(pipe: Pipe) -> None:
    console = pipe.console()
    first, second = lines(1000), b"x" * 10 + b"\n"
    console.write(first)
    console.write(second)
    got = b""
    while len(got) < len(first + second):
        got += read_all(pipe.reading)
        console.flush(0)
    assert got == first + second
    console.close()


async def test_a_reader_that_goes_away_is_the_end_of_it_said_once(pipe: Pipe) -> None:
    console = pipe.console()
    console.write(lines(2000))
    os.close(pipe.reading)
    await until(lambda: pipe.broken)
    assert not console.write(b"line\n")
    assert not console.flush(1)
    assert (pipe.broken, console.broken) == (["Broken pipe"], "Broken pipe")
    assert console.dropped_bytes >= 2000 * 100 - (1 << 16)
    console.close()


def test_a_reader_that_was_gone_before_is_known_from_the_first_line(pipe: Pipe) -> None:
    os.close(pipe.reading)
    console = pipe.console()
    assert not console.write(b"line\n")
    assert pipe.broken == ["Broken pipe"]
    console.close()


def test_a_named_pipe_whose_reader_is_gone_does_not_hold_us_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(tmp_path / "fifo", os.O_WRONLY)
    os.close(reading)
    console = Console(writing)
    assert not console.write(b"line\n")
    assert console.broken == "Broken pipe"
    console.close()
    os.close(writing)


def test_a_descriptor_that_is_closed_is_known_from_the_start() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert Console(writing).broken == "Bad file descriptor"


async def test_a_terminal_whose_output_is_stopped_is_not_waited_for() -> None:
    master, terminal = pty.openpty()
    flags = fcntl.fcntl(terminal, fcntl.F_GETFL)
    console = Console(terminal, limit=10_000)
    while console.write(lines(10)):
        pass
    assert console.dropped_bytes == 1000
    assert fcntl.fcntl(terminal, fcntl.F_GETFL) == flags
    assert (await read_until(master, b"9\r\n")).startswith(b"0" * 99 + b"\r\n")
    console.close()
    os.close(master)
    os.close(terminal)


def test_a_terminal_that_is_hung_up_is_the_end_of_it() -> None:
    master, terminal = pty.openpty()
    broken: list[str] = []
    console = Console(terminal, on_broken=broken.append)
    assert console.write(b"line\n")
    os.close(master)
    assert not console.write(b"line\n")
    assert broken == ["Input/output error"]
    console.close()
    os.close(terminal)


async def test_a_socket_is_not_waited_for_and_its_flags_stay() -> None:
    ours, theirs = socket.socketpair()
    told: list[int] = []
    flags = fcntl.fcntl(ours, fcntl.F_GETFL)
    console = Console(ours.fileno(), limit=10_000, mark=mark, on_dropped=told.append)
    accepted = b""
    while console.write(chunk := lines(7)):
        accepted += chunk
    assert fcntl.fcntl(ours, fcntl.F_GETFL) == flags
    assert await read_until(theirs.fileno(), b"missing>\n") == accepted + mark(700)
    assert told == [700]
    console.close()
    assert ours.send(b"still open") == 10
    ours.close()
    theirs.close()


def test_a_socket_whose_peer_is_gone_is_the_end_of_it() -> None:
    ours, theirs = socket.socketpair()
    console = Console(ours.fileno())
    theirs.close()
    assert not console.write(b"line\n")
    assert console.broken == "Broken pipe"
    console.close()
    ours.close()


async def test_a_pipe_that_may_not_be_opened_anew_is_asked_before_each_piece(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        console = pipe.console()
    sent = lines(2000)
    assert console.write(sent)
    assert os.get_blocking(pipe.writing)
    assert await read_until(pipe.reading, sent[-100:]) == sent
    console.close()


def test_a_full_disk_is_tried_again_with_each_write_and_no_line_is_torn() -> None:
    file = os.memfd_create("console")
    told: list[int] = []
    console = Console(file, limit=500, mark=mark, on_dropped=told.append)
    with file_size_limit(150):
        assert console.write(lines(2))
        console.settle()  # the disk is found full: it has taken one line and a half
        assert [console.write(lines(1)) for _ in range(6)] == [True] * 5 + [False]
    assert console.write(b"works again\n")
    console.settle()
    assert os.pread(file, 10_000, 0) == lines(2) + lines(1) * 5 + mark(100) + b"works again\n"
    assert (console.dropped_bytes, told, console.broken) == (100, [100], None)
    console.close()
    os.close(file)


async def test_a_device_without_room_costs_nothing_while_nobody_writes() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    console = Console(full, limit=1000)
    while console.write(lines(1)):
        pass
    assert console.broken is None
    assert not asyncio.get_running_loop().remove_writer(full)
    began_at = time.monotonic()
    assert not console.flush(20)
    assert time.monotonic() - began_at < 10
    console.close()
    os.close(full)


async def test_a_descriptor_that_is_writable_and_takes_nothing_does_not_keep_the_loop_busy(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a socket is when the kernel is short of buffers."""
    console = pipe.console()
    sent = lines(2000)
    console.write(sent)
    tried = 0

    def no_buffers(data: bytes) -> int:
        nonlocal tried
        tried += 1
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    with monkeypatch.context() as patch:
        patch.setattr(console, "_write", no_buffers)
        got = read_all(pipe.reading)
        for _ in range(10):
            await asyncio.sleep(0)
        assert tried == 1
    assert console.write(b"line\n")
    assert await read_until(pipe.reading, b"line\n") == sent[len(got) :] + b"line\n"
    console.close()


def test_flush_waits_for_a_reader_that_is_slow_and_not_longer_than_it_may(pipe: Pipe) -> None:
    console = pipe.console()
    sent = lines(8000)
    assert console.write(sent)
    assert not console.flush(0.05)
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"],
        stdin=pipe.reading,
        stdout=subprocess.PIPE,
    ) as reader:
        began_at = time.monotonic()
        assert console.flush(30)
        assert time.monotonic() - began_at < 30
        console.close()
        os.close(pipe.writing)
        os.close(pipe.reading)
        assert reader.stdout is not None
        assert reader.stdout.read() == sent


def test_what_is_told_of_a_gap_may_itself_write_to_the_console(pipe: Pipe) -> None:
    console = Console(pipe.writing, limit=1000, on_dropped=lambda missing: say(b"dropped %d\n" % missing))

    def say(line: bytes) -> None:
        assert console.write(line, urgent=True)

    while console.write(lines(1)):
        pass
    read_all(pipe.reading)
    assert console.flush(1)
    assert console.write(b"line\n")
    assert read_all(pipe.reading).endswith(b"dropped 100\nline\n")
    console.close()


async def test_close_gives_back_what_was_opened_and_leaves_what_was_given(pipe: Pipe) -> None:
    before = open_fds()
    console = pipe.console()
    console.write(lines(2000))
    console.close()
    console.close()
    assert open_fds() == before
    assert not console.write(b"line\n")
    os.fstat(pipe.writing)


def test_prefixes_have_the_same_colour_for_the_same_rank_and_none_unless_asked_for(pipe: Pipe) -> None:
    plain, painted = pipe.console(), pipe.console(colour=True)
    assert plain.prefix(b"[rank 3] ", 3) == b"[rank 3] "
    shown = [painted.prefix(b"[worker] ", rank) for rank in range(1000)]
    assert len(set(shown[:9])) == 9
    assert shown[:9] == shown[9:18]
    assert all(one.startswith(b"\x1b[") and one.endswith(b"m[worker] \x1b[0m") for one in shown)
    assert b"\x1b[31m" not in b"".join(shown), "red is for errors"
    assert painted.prefix(b"", 3) == b""
    plain.close()
    painted.close()
