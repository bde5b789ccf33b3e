"""Evidence is bounded in time and size, whatever a command or a crowd of workers does."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import anyio
import pytest

from supervisor import clock
from supervisor.core.watchdog import Section, Told
from supervisor.host import evidence
from supervisor.host.evidence import Peer, gather
from supervisor.plan import DumpRules


def me(rank: int, told: Told | None = None, last_lines: str = "") -> Peer:
    """A worker that is this very process."""
    return Peer(rank, rank, os.getpid(), told, lambda: last_lines)


def nobody(_pid: int) -> None:
    """Who would be left alone."""


async def seen(reason: str, peers: list[Peer], dump: DumpRules) -> str:
    return await gather(reason, peers, dump, nobody, anyio.CancelScope())


async def test_what_each_rank_says_of_itself_is_told_with_its_age() -> None:
    now = clock.now()
    told = Told("loading", 17, now - 2.0, sections=[Section("step", now - 30.0, 60.0, 1)])
    text = await seen("rank 3 hangs", [me(3, told, "one\ntwo"), me(0)], DumpRules())
    assert text.startswith("rank 3 hangs\n")
    assert f"rank 3 (pid {os.getpid()}): in section 'step' for 30.0 s; progress 17, 2.0 s ago; loading\n" in text
    assert f"rank 0 (pid {os.getpid()}): nothing\n" in text
    assert text.endswith("rank 3:\n  one\n  two\nrank 0:\n  (nothing)\n")


async def test_of_a_command_that_writes_for_ever_there_is_a_beginning() -> None:
    began_at = clock.now()
    text = await seen("it hangs", [me(0)], DumpRules(command=("yes", "${pid}"), wait=5.0))
    assert f"\n  {os.getpid()}\n  {os.getpid()}\n" in text
    assert evidence.DUMP < len(text) < 2 * evidence.DUMP
    assert "it exited with code 1" in text, "there was no room for more"
    assert clock.now() - began_at < 5.0


async def test_commands_that_do_not_end_take_no_longer_than_all_of_it_may() -> None:
    peers = [me(rank) for rank in range(evidence.AT_A_TIME + 1)]
    began_at = clock.now()
    text = await seen("it hangs", peers, DumpRules(command=("sleep", "1000"), wait=0.3))
    assert 0.3 <= clock.now() - began_at < 3.0
    assert text.count(" s and was killed") == evidence.AT_A_TIME
    assert f"rank {evidence.AT_A_TIME}:\n  no time was left" in text


async def test_a_command_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = DumpRules(command=("/nowhere/py-spy",), wait=5.0)
    assert "'/nowhere/py-spy' cannot be run: No such file" in await seen("it hangs", [me(0)], rules)
    monkeypatch.setattr(evidence, "DUMP", -1)
    assert "it cannot be run: Invalid argument" in await seen("it hangs", [me(0)], rules)


async def test_who_is_not_looked_at_for_want_of_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "LOOKS_FOR", 0.0)
    text = await seen("it hangs", [me(2), me(0), me(1)], DumpRules())
    assert f"rank 2:\n  {os.getpid()}: " in text
    assert "not looked at, for want of time: ranks 0, 1\n" in text


async def test_a_process_that_has_ended_leaves_no_traces_and_breaks_nothing() -> None:
    gone = Peer(0, 0, 2**22 - 1, None, lambda: "its last words")
    text = await seen("it hangs", [gone], DumpRules(signal=10, wait=0.01))
    assert "its last words" in text


async def test_what_all_ranks_together_write_has_a_bound_and_what_is_left_out_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evidence, "ROOM", 1000)
    command = (sys.executable, "-S", "-c", "print('x' * 800)")
    peers = [me(rank, last_lines="~" * 800) for rank in range(4)]
    text = await seen("it hangs", peers, DumpRules(command=command, wait=20.0))
    assert text.count("x" * 800) == 2, "the first one's, and of the others as much as there is room for"
    assert text.count("x") - text.count("x" * 800) * 800 < 800
    assert text.count("characters left out for want of room") == 2 + 3
    assert text.count("~") == 1000


async def test_one_process_with_a_crowd_of_threads_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "LOOKS_FOR", 0.0)
    over = threading.Event()
    crowd = [threading.Thread(target=over.wait) for _ in range(8)]
    for thread in crowd:
        thread.start()
    text = await seen("it hangs", [me(0)], DumpRules())
    over.set()
    for thread in crowd:
        thread.join()
    assert text.count("(thread of") < len(crowd)
    assert "no more of it is looked at, for want of time" in text


def test_a_second_finding_in_one_attempt_has_a_file_of_its_own(tmp_path: Path) -> None:
    path = str(tmp_path / "evidence_0.txt")
    for text in ("one", "two"):
        file, found = evidence.create(path)
        assert evidence.write(file, text) == ""
        assert Path(found).read_text() == text
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["evidence_0.2.txt", "evidence_0.txt"]
    for _ in range(evidence.FINDINGS - 2):
        os.close(evidence.create(path)[0])
    with pytest.raises(FileExistsError):
        evidence.create(path)


def test_a_disk_that_is_full_is_said() -> None:
    assert evidence.write(os.open("/dev/full", os.O_WRONLY), "text") == "No space left on device"
