"""Out of memory is said only where it is proved for that very process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.host import oom
from supervisor.host.oom import Since, Witness

KILLED = b"Memory cgroup out of memory: Killed process 4711 (python) total-vm:100kB, anon-rss:10kB, UID:0"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Witness, socket.socket]]:
    """A witness, and what it takes for the kernel's log: like that one, it gives one record a read(2)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    witness = Witness(log="/dev/null")
    monkeypatch.setattr(witness, "_log", os.dup(theirs.fileno()))
    with ours, theirs, closing(witness):
        yield witness, ours


def test_who_is_named_in_the_kernel_log_was_killed_for_memory(kernel: tuple[Witness, socket.socket]) -> None:
    witness, log = kernel
    log.send(b"6,338,100000000,-;usb 1-1: new device\n SUBSYSTEM=usb\n")
    log.send(b"3,339,100000001,-;" + KILLED + b"\n")
    assert witness.heard_of(4711, Since(99.0, -1)) == (True, "says the kernel log")
    assert witness.heard_of(4712, Since(99.0, -1)) == (False, "")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b"3,339,50000000,-;" + KILLED, "it was killed long before this worker was started: the number is used again"),
        (b"12,339,100000001,-;" + KILLED, "a process has written that, not the kernel"),
        (b"garbage", "no record at all"),
    ],
)
def test_what_proves_nothing_is_not_believed(kernel: tuple[Witness, socket.socket], record: bytes, why: str) -> None:
    witness, log = kernel
    log.send(record)
    assert witness.heard_of(4711, Since(99.0, -1)) == (False, ""), why


def test_without_the_log_a_counter_that_moved_is_mentioned_and_no_proof(tmp_path: Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 1\noom_kill 3\npswpin 0\n")
    with closing(Witness(log=str(tmp_path / "none"), counters=str(counters))) as witness:
        before = witness.now()
        assert before.kills == 3
        assert witness.heard_of(4711, before) == (False, "")
        counters.write_text("oom_kill 4\n")
        proved, words = witness.heard_of(4711, before)
    assert not proved
    assert "count of out-of-memory kills moved" in words


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("core\n", "as 'core' in its working directory"),
        ("/var/cores/%e.%p\n", "/var/cores/%e.%p"),
        ("|/usr/lib/systemd/systemd-coredump %P %u\n", "given to /usr/lib/systemd/systemd-coredump"),
    ],
)
def test_it_is_said_where_cores_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, words: str) -> None:
    path = tmp_path / "core_pattern"
    path.write_text(pattern)
    monkeypatch.setattr(oom, "_CORE_PATTERN", str(path))
    assert oom.core_pattern() == words
