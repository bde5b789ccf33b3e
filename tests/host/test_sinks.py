"""What a stream's bytes become: a log file byte for byte, console lines with a prefix, an account of what is lost."""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.host.console import Console
from supervisor.host.sinks import CONTINUED, ConsoleLines, Dropped, LogFile, Losses

LABELS = {"group": "trainer", "role_name": "trainer", "rank": "3", "local_rank": "1", "attempt": "2"}
LIMIT = 16


class Account:
    """What the losses of one stream come to."""

    def __init__(self) -> None:
        self.totals: defaultdict[str, int] = defaultdict(int)
        self.told: list[Dropped] = []
        self.losses = Losses(LABELS, "stdout", self.totals, self.told.append)


def one_by_one(prefix: bytes, written: bytes, limit: int) -> bytes:
    """What the console must show, said line by line."""
    shown = b""
    for line in written.removesuffix(b"\n").split(b"\n") if written else []:
        parts = [line[at : at + limit] for at in range(0, len(line), limit)] or [b""]
        shown += b"".join(prefix + part + CONTINUED for part in parts[:-1]) + prefix + parts[-1] + b"\n"
    return shown


@given(
    prefix=st.binary(max_size=5).filter(lambda prefix: b"\n" not in prefix),
    blocks=st.lists(st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\xff\x00"]), min_size=1, max_size=8), max_size=20),
)
def test_console_lines_are_the_same_however_the_bytes_were_cut_into_blocks(
    prefix: bytes, blocks: list[list[bytes]]
) -> None:
    file = os.memfd_create("console")
    console = Console(file)
    sink = ConsoleLines(console, prefix, Account().losses, limit=LIMIT)
    for block in blocks:
        sink.write(b"".join(block))
    sink.finish()
    console.close()
    written = b"".join(b"".join(block) for block in blocks)
    shown = os.pread(file, 100_000, 0)
    os.close(file)
    assert shown == one_by_one(prefix, written, LIMIT)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT, 2 * LIMIT + 1])
def test_a_line_is_cut_only_where_it_is_too_long(size: int) -> None:
    file = os.memfd_create("console")
    console = Console(file)
    sink = ConsoleLines(console, b"> ", Account().losses, limit=LIMIT)
    line = bytes(range(64, 64 + size)) + b"\n"
    for at in range(0, len(line), LIMIT):
        sink.write(line[at : at + LIMIT])
    assert os.pread(file, 1000, 0) == one_by_one(b"> ", line, LIMIT)
    console.close()
    os.close(file)


def test_a_line_written_a_byte_at_a_time_is_held_in_few_pieces() -> None:
    file = os.memfd_create("console")
    console = Console(file)
    sink = ConsoleLines(console, b"> ", Account().losses)
    line = b"ab" * 5000
    for at in range(0, len(line), 2):
        sink.write(line[at : at + 2])
        assert len(sink._held) <= 64
    sink.write(b"\n")
    assert os.pread(file, 100_000, 0) == b"> " + line + b"\n"
    console.close()
    os.close(file)


def test_what_a_stuck_console_does_not_take_is_counted_for_the_group() -> None:
    reading, writing = os.pipe()
    console = Console(writing, limit=1000)
    account = Account()
    sink = ConsoleLines(console, b"> ", account.losses)
    for _ in range(1000):
        sink.write(b"x" * 997 + b"\n")
    assert account.totals["trainer"] == console.dropped_bytes > 0
    assert account.told == []
    console.close()
    os.close(reading)
    os.close(writing)


class Disk:
    """A file system that takes a given number of bytes; its file is real."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.room = 1 << 30
        self._write = os.write

    def write(self, fd: int, data: bytes) -> int:
        if fd != self.fd:
            return self._write(fd, data)
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(tmp_path / "stdout.log")
    monkeypatch.setattr(os, "write", made.write)
    yield made
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made.fd)  # the log file has closed it


def test_a_file_that_takes_nothing_for_a_while_says_how_much_is_missing_and_where(disk: Disk) -> None:
    account = Account()
    log = LogFile(disk.fd, account.losses)
    log.write(b"one\n")
    disk.room = 2
    log.write(b"two\n")
    log.write(b"three\n")
    assert account.told == [Dropped(LABELS, "stdout", 2, "No space left on device", over=False)]
    disk.room = 1 << 30
    log.write(b"four\n")
    assert disk.content == b"one\ntw\n[rankd: dropped 8 bytes: No space left on device]\nfour\n"
    assert account.told[1:] == [Dropped(LABELS, "stdout", 8, "No space left on device", over=True)]
    assert account.totals == {"trainer": 8}
    log.finish()


def test_a_mark_that_does_not_fit_is_taken_back_and_written_whole_later(disk: Disk) -> None:
    account = Account()
    log = LogFile(disk.fd, account.losses)
    disk.room = 0
    log.write(b"one\n")
    disk.room = 20
    log.write(b"two\n")
    assert disk.content == b""
    disk.room = 1 << 30
    log.write(b"three\n")
    assert disk.content == b"[rankd: dropped 8 bytes: No space left on device]\nthree\n"
    log.finish()


def test_a_second_gap_is_marked_and_told_as_its_own(disk: Disk) -> None:
    account = Account()
    log = LogFile(disk.fd, account.losses)
    for line in (b"one\n", b"three\n"):
        disk.room = 0
        log.write(line)
        disk.room = 1 << 30
        log.write(b"kept\n")
    log.finish()
    mark = b"[rankd: dropped %d bytes: No space left on device]\n"
    assert disk.content == mark % 4 + b"kept\n" + mark % 6 + b"kept\n"
    assert [(told.bytes, told.over) for told in account.told] == [(4, False), (4, True), (6, False), (6, True)]
    assert account.totals == {"trainer": 10}


def test_a_gap_at_the_end_is_marked_at_the_end_and_told_even_if_the_mark_cannot_be_written(disk: Disk) -> None:
    account = Account()
    log = LogFile(disk.fd, account.losses)
    disk.room = 0
    log.write(b"one\n")
    log.finish()
    assert disk.content == b""
    assert [(told.bytes, told.over) for told in account.told] == [(4, False), (4, True)]
