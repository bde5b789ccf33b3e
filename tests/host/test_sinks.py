"""What a stream's bytes become: lines with a prefix, and an account of what is lost."""

from __future__ import annotations

import os
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import clock
from supervisor.host.console import Console
from supervisor.host.sinks import CONTINUED, STAMP, ConsoleLines, Dropped, Losses, StampedLines

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
    blocks=st.lists(st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\xff\x00"]), min_size=1, max_size=60), max_size=10),
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
    console.settle()
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
    console.settle()
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
    console.settle()
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


def test_a_line_has_the_instant_at_which_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    file = os.memfd_create("console")
    console = Console(file)
    monkeypatch.setattr(clock, "now", lambda: 0.0)
    monkeypatch.setattr(clock, "wall", lambda at: 1_000_000_000.25 + at)
    sink = StampedLines(console, f"{STAMP} 1|".encode(), Account().losses)
    sink.write(b"one\ntwo\nthr")
    monkeypatch.setattr(clock, "now", lambda: 1.0)
    sink.write(b"ee\n")
    first, second = b"2001-09-09T01:46:40.250000Z 1|", b"2001-09-09T01:46:41.250000Z 1|"
    console.settle()
    assert os.pread(file, 1000, 0) == first + b"one\n" + first + b"two\n" + second + b"three\n"
    console.close()
    os.close(file)
