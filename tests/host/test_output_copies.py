"""Where a stream goes besides its file and console: older files, filtered ones, the journal; and who waits for whom."""

from __future__ import annotations

import array
import os
import re
import signal
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from supervisor.host.console import Console
from supervisor.host.journal import Journal, field
from supervisor.host.output import Output
from supervisor.plan import Rotation, Streams
from tests.host.observing import open_fds, until
from tests.host.test_logfile import all_of
from tests.host.test_output import NONE, Host, host, small_disk

__all__ = ["host"]

FLOOD = "import os\nfor n in range({count}): os.write(1, b'{rank} %d %s\\n' % (n, b'x' * (n * 7 % 120)))"


def flood(rank: int, count: int) -> tuple[str, bytes]:
    """A program, and what it writes."""
    lines = b"".join(b"%d %d %s\n" % (rank, n, b"x" * (n * 7 % 120)) for n in range(count))
    return FLOOD.format(rank=rank, count=count), lines


# ---- rotation


@pytest.mark.parametrize("tee", [NONE, Streams(3)], ids=["redirected", "teed"])
async def test_every_line_of_a_flood_is_in_one_of_the_rotated_files_whole_and_in_order(
    host: Host, tee: Streams
) -> None:
    programs = [flood(rank, 10_000) for rank in range(2)]
    rules: dict[str, Any] = {"redirects": Streams(3), "tee": tee, "rotate": Rotation(50_000, 1000)}
    workers = [host.python(program, rank, **rules) for rank, (program, _) in enumerate(programs)]
    for worker, (_, lines) in zip(workers, programs, strict=True):
        await worker.done()
        files = all_of(worker.directory / "stdout.log")
        assert len(files) > 10
        assert b"".join(files) == lines
        assert all(len(file) < 51_000 and file.endswith(b"\n") for file in files)
    assert host.output.log_dropped_bytes == {}


async def test_files_that_somebody_moves_under_a_flood_have_every_line_whole(host: Host) -> None:
    """As logrotate does: rename, then SIGUSR1."""

    def has_grown(size: int) -> bool:
        return host.output.log_bytes["trainer", "stdout"] > size + 50_000

    program, lines = flood(0, 150_000)
    worker = host.python(program)
    log = worker.directory / "stdout.log"
    for number in range(9, 1, -1):
        await until(partial(has_grown, host.output.log_bytes["trainer", "stdout"]))
        await until(log.exists)
        log.rename(f"{log}.{number}")
        host.output.reopen()
    await worker.done()
    files = all_of(log)
    assert len(files) == 9
    assert b"".join(files) == lines
    assert all(file.endswith(b"\n") for file in files)


async def test_a_directory_that_was_removed_is_made_anew_when_files_are_opened_anew(host: Host) -> None:
    worker = host.shell("echo one; kill -STOP $$; echo two")
    log = worker.directory / "stdout.log"
    await until(lambda: log.exists() and log.read_bytes())
    for file in (log, worker.directory / "stderr.log"):
        file.unlink()
    worker.directory.rmdir()
    host.output.reopen()
    os.kill(worker.process.pid, signal.SIGCONT)
    await worker.done()
    assert log.read_bytes() == b"two\n"


# ---- filters


async def test_lines_that_are_looked_for_are_in_one_file_for_all_shown_ranks_with_their_prefix(host: Host) -> None:
    """As torch has it: a rank that the console does not show is not in it either, nor is a stream not teed."""
    rules: dict[str, Any] = {
        "duplicate_stdout_filters": ("loss", "NaN"),
        "local_ranks_filter": frozenset({0, 1, 3}),
        "redirects": Streams(3),
        "tee": Streams(3, {3: 0}),
    }
    program = "echo begin; echo loss $1; printf 'x NaN'; echo loss >&2"
    workers = [host.shell(f"set -- {rank}; {program}", rank, **rules) for rank in range(4)]
    for worker in workers:
        await worker.done()
    found = (worker.directory.parent / "filtered_stdout.log").read_bytes()
    wanted = {b"[train%d]:%s" % (rank, line) for rank in range(2) for line in (b"loss %d" % rank, b"x NaN")}
    assert len(found.splitlines()) == 4
    assert set(found.splitlines()) == wanted
    assert not (worker.directory.parent / "filtered_stderr.log").exists()
    assert workers[2].out == b"begin\nloss 2\nx NaN"


async def test_a_filtered_file_is_closed_by_the_last_rank_and_needs_no_console(host: Host) -> None:
    before = open_fds()
    output = Output(None, None, inherited=host.files)
    program = "echo a >&2; echo b >&2"
    workers = [host.shell(program, rank, output, duplicate_stderr_filters=("a",)) for rank in range(2)]
    for worker in workers:
        await worker.done()
    found = (workers[0].directory.parent / "filtered_stderr.log").read_bytes()
    assert sorted(found.splitlines()) == [b"[train0]:a", b"[train1]:a"]
    assert workers[0].err == b"a\nb\n"
    output.close()
    assert open_fds() == before


# ---- the prefix


async def test_each_line_has_the_date_where_the_prefix_has_it(host: Host) -> None:
    worker = host.shell("echo one; echo two", prefix="${timestamp} ${local_rank}|")
    await worker.done()
    date = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    assert re.fullmatch(date + rb" 0\|one\n" + date + rb" 0\|two\n", host.console())


# ---- waiting for a disk or a console


async def test_a_worker_that_blocks_waits_for_a_full_disk_and_loses_nothing(tmp_path: Path) -> None:
    program, lines = flood(0, 800)
    with small_disk(tmp_path / "disk") as disk, closing(Host(disk)) as host:
        filler = disk / "filler"
        filler.write_bytes(bytes(40_000))
        worker = host.python(program + "\nos.write(2, b'the end')", when_full="block")
        await until(lambda: host.told)
        assert {(told.waits, told.over) for told in host.told} == {(True, False)}
        for _ in range(200):
            await anyio.lowlevel.checkpoint()
        assert len(worker.out) < len(lines)
        filler.unlink()
        await worker.done()
        assert (worker.out, worker.err) == (lines, b"the end")
        assert (host.told[-1].waits, host.told[-1].over) == (True, True)
        assert host.output.log_dropped_bytes == {}


def room_for_a_few_lines(log: Path) -> None:
    """The file has a page of its own, of which a byte is used."""
    log.parent.mkdir(parents=True)
    log.write_bytes(b"\n")


async def test_ranks_that_block_wait_for_the_file_of_filtered_lines_as_well_and_lose_none(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, closing(Host(disk)) as host:
        for rank in range(2):
            room_for_a_few_lines(Path(host.plan(rank).directory, "stdout.log"))
        filler = disk / "filler"
        filler.write_bytes(bytes(56 * 1024))
        programs = [flood(rank, 30) for rank in range(2)]
        rules: dict[str, Any] = {"when_full": "block", "tee": Streams(1), "duplicate_stdout_filters": ("x",)}
        workers = [host.python(program, rank, **rules) for rank, (program, _) in enumerate(programs)]
        await until(lambda: any(told.into == "filtered_stdout.log" for told in host.told))
        filler.unlink()
        for worker in workers:
            await worker.done()
        filtered = (workers[0].directory.parent / "filtered_stdout.log").read_bytes().splitlines(keepends=True)
        for rank, (_, lines) in enumerate(programs):
            prefix = b"[train%d]:" % rank
            assert [line.removeprefix(prefix) for line in filtered if line.startswith(prefix)] == [
                line for line in lines.splitlines(keepends=True) if b"x" in line
            ]
        assert host.output.log_dropped_bytes == {}


async def test_a_worker_that_blocks_can_be_ended_and_what_it_could_not_write_is_counted(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, closing(Host(disk)) as host:
        worker = host.start(["/usr/bin/yes"], when_full="block")
        await until(lambda: host.told)
        worker.process.kill()
        await worker.done()
        size = os.stat(worker.directory / "stdout.log").st_size
        read = host.output.log_bytes["trainer", "stdout"]
        assert host.output.log_dropped_bytes["trainer"] == read - size > 0
        assert (host.told[-1].waits, host.told[-1].over) == (False, True)


async def test_a_worker_that_blocks_loses_no_line_that_came_behind_a_long_one(host: Host) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    console = Console(writing, limit=1000)
    output = Output(console, console)
    lines = (b"x" * 70_000, *[b""] * 1000)
    program = "import os; os.write(1, b'x' * 60000); os.write(1, b'x' * 10000 + b'\\n' * 1001)"
    worker = host.python(program, 0, output, when_full="block", tee=Streams(1), prefix="> ")
    got = bytearray()
    await until(lambda: output.log_bytes)
    while got.count(b"\n") < len(lines) + 1:
        with anyio.fail_after(20):
            await anyio.wait_readable(reading)
        got += os.read(reading, 8000)
    await worker.done()
    assert bytes(got).replace(b" ...\n> ", b"") == b"".join(b"> %b\n" % line for line in lines)
    assert console.dropped_bytes == 0
    output.close()
    console.close()
    os.close(reading)
    os.close(writing)


async def test_a_worker_that_blocks_waits_for_a_console_that_is_read_slowly(host: Host) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    console = Console(writing, limit=1000)
    output = Output(console, console)
    program, lines = flood(0, 10_000)
    worker = host.python(program, 0, output, when_full="block", tee=Streams(1))
    got = bytearray()
    await until(lambda: output.log_bytes)
    while got.count(b"\n") < 10_000:
        with anyio.fail_after(20):
            await anyio.wait_readable(reading)
        got += os.read(reading, 8000)
    await worker.done()
    assert bytes(got) == b"".join(b"[train0]:" + line for line in lines.splitlines(keepends=True))
    assert console.dropped_bytes == 0
    assert output.log_dropped_bytes == {}
    output.close()
    console.close()
    os.close(reading)
    os.close(writing)


async def test_one_that_drops_is_not_held_up_by_one_that_blocks(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, closing(Host(disk)) as host:
        host.start(["/usr/bin/yes"], when_full="block")
        await until(lambda: host.told)
        other = host.shell("echo one; echo two >&2", 1)
        await other.done()
        assert host.console(0).count(b"[train1]:one\n") == 1


# ---- the journal


class Journald:
    """A socket as journald's, and the entries that came to it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.listen()

    def listen(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def entries(self) -> Iterator[dict[str, bytes]]:
        while True:
            try:
                data, rights, _, _ = self.socket.recvmsg(1 << 20, 1024)
            except BlockingIOError:
                return
            for _, _, fds in rights:
                fd = array.array("i", fds)[0]
                data += os.pread(fd, 1 << 24, 0)
                os.close(fd)
            yield parsed(data)

    def close(self) -> None:
        self.socket.close()
        os.unlink(self.path)


def parsed(data: bytes) -> dict[str, bytes]:
    """An entry, read as the protocol says."""
    fields: dict[str, bytes] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[9 + size :]
        fields[name.decode()] = value
    return fields


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    made = Journald(tmp_path / "socket")
    yield made
    made.close()


@pytest.fixture
def output(host: Host, journald: Journald) -> Iterator[Output]:
    made = Output(*host.consoles, inherited=host.files, on_dropped=host.told.append, journal_socket=journald.path)
    yield made
    for worker in host.workers:
        worker.attached.close()
    made.close()


async def test_every_line_is_an_entry_with_its_rank_and_group(host: Host, output: Output, journald: Journald) -> None:
    worker = host.python(
        "import os; os.write(1, b'one\\n\\n\\xff\\x00=two\\nlast'); os.write(2, b'three\\n')", 0, output, journal=True
    )
    await worker.done()
    entries = list(journald.entries())
    out = [entry for entry in entries if entry["RANKD_STREAM"] == b"stdout"]
    (err,) = [entry for entry in entries if entry["RANKD_STREAM"] == b"stderr"]
    assert [entry["MESSAGE"] for entry in out] == [b"one", b"", b"\xff\x00=two", b"last"]
    assert err == {
        "PRIORITY": b"4", "SYSLOG_IDENTIFIER": b"rankd", "RANKD_GROUP": b"trainer", "RANKD_ATTEMPT": b"1",
        "RANKD_RUN_ID": b"", "RANKD_STREAM": b"stderr", "RANK": b"8", "LOCAL_RANK": b"0",
        "WORKER_PID": b"%d" % worker.process.pid, "MESSAGE": b"three",
    }  # fmt: skip
    assert {entry["PRIORITY"] for entry in out} == {b"6"}
    assert worker.out == b"one\n\n\xff\x00=two\nlast"


async def test_the_journal_can_be_the_only_place(host: Host, output: Output, journald: Journald) -> None:
    worker = host.shell("echo one", 0, output, journal=True, tee=NONE)
    await worker.done()
    assert [entry["MESSAGE"] for entry in journald.entries()] == [b"one"]
    assert host.console() == b""
    assert os.listdir(worker.directory) == []


async def test_a_journal_that_is_full_or_gone_holds_up_nobody_and_comes_back(
    host: Host, output: Output, journald: Journald
) -> None:
    program, lines = flood(0, 20_000)
    worker = host.python(program, 0, output, journal=True, tee=Streams(1))
    await worker.done()
    assert b"".join(all_of(worker.directory / "stdout.log")) == lines
    lost = output.log_dropped_bytes["trainer"]
    kept = sum(len(entry["MESSAGE"]) + 1 for entry in journald.entries())
    assert lost == len(lines) - kept > 0
    assert [(told.into, told.over) for told in host.told] == [("journal", False), ("journal", True)]
    assert (host.told[-1].bytes, host.told[-1].over) == (lost, True)
    journald.close()
    gone = host.shell("echo two >&2", 1, output, journal=True)
    await gone.done()
    assert [(told.reason, told.bytes) for told in host.told[-2:]] == [("No such file or directory", 4)] * 2
    journald.listen()
    back = host.shell("echo three", 2, output, journal=True)
    await back.done()
    assert [entry["MESSAGE"] for entry in journald.entries()] == [b"three"]


def test_an_entry_too_large_for_a_datagram_goes_as_a_sealed_file(
    journald: Journald, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_fds()
    with closing(Journal(journald.path)) as journal:
        large = field("MESSAGE", b"x" * (32 << 20))
        assert journal.send(large) is None
        assert journal.send(field("MESSAGE", b"two\nlines")) is None
    data, rights, _, _ = journald.socket.recvmsg(1 << 20, 1024)
    fd = array.array("i", rights[0][2])[0]
    assert data == b""
    assert os.fstat(fd).st_size == len(large)
    with pytest.raises(OSError, match="Operation not permitted"):
        os.write(fd, b"more")
    os.close(fd)
    assert list(journald.entries()) == [{"MESSAGE": b"two\nlines"}]
    assert open_fds() == before


# ---- directories


@pytest.mark.parametrize("mask", [0o022, 0o077], ids=oct)
def test_any_worker_may_pass_through_the_directories_above_its_own(host: Host, mask: int) -> None:
    before = os.umask(mask)
    try:
        worker = host.shell("true", redirects=Streams(3), tee=NONE)
    finally:
        os.umask(before)
    worker.process.wait()
    for directory in (worker.directory.parent, *worker.directory.parents[1:3]):
        mode = stat.S_IMODE(os.stat(directory).st_mode)
        assert mode & 0o711 == 0o711
        assert mode & 0o022 == 0
