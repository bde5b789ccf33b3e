"""What a group did when one of its workers hung: who says what of itself, where every thread waits, the last lines.

It is taken before anybody is ended, bounded in time and size, and in slices: the loop serves others meanwhile.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from supervisor import clock
from supervisor.core.watchdog import Told
from supervisor.host.hook import run_command
from supervisor.host.proc import read_process, send
from supervisor.host.threads import family, read, where
from supervisor.plan import DumpRules, handed_on, substitute

SLICE = 0.003
"""Seconds of work at a stretch before the loop may serve others."""

LOOKS_FOR = 0.25
"""Seconds that looking at /proc may take; who has not been looked at by then is named."""

ROOM = 1 << 21
"""Characters of each kind of evidence, of all ranks together but the first; what is left out beyond is said."""

AT_A_TIME = 8
"""Commands that run at a time."""

DUMP = 1 << 18
"""Bytes that a command may write."""

FINDINGS = 16
"""Files of evidence of one worker in one attempt."""

_STATUS = ("VmRSS:", "Threads:", "SigPnd:", "SigBlk:", "SigIgn:", "SigCgt:")


@dataclass(frozen=True, slots=True)
class Peer:
    """One worker of the group: the number of its own process, which is not waited for yet, and what it has said."""

    rank: int
    local_rank: int
    pid: int
    told: Told | None
    last_lines: Callable[[], str]


async def gather(
    reason: str, peers: Sequence[Peer], dump: DumpRules, leave_alone: Callable[[int], None],
    patience: anyio.CancelScope,
) -> str:  # fmt: skip
    """The evidence as text. The first of the peers is the one that hangs; ``reason`` says why it is taken to.

    With a signal or command it takes up to ``dump.wait`` seconds longer, unless ``patience`` is cancelled before: then
    it is what is known by then. ``leave_alone`` is told the pids of commands.
    """
    if dump.signal:
        for peer in peers:
            _signal(peer.pid, dump.signal)
    dumps: dict[int, str] = {}
    said, last_lines = _Room(), _Room()
    parts = [
        [reason, clock.rfc3339(clock.now())],
        ["What the ranks say of themselves:", *(said.take(_said(peer)) for peer in peers)],
        ["Where their threads are:"],
    ]
    with patience:
        async with anyio.create_task_group() as tasks:
            if dump.signal:
                tasks.start_soon(anyio.sleep, dump.wait)  # nobody tells when it is done
            if dump.command:
                tasks.start_soon(_run, peers, dump, leave_alone, dumps)
            await _look(peers, parts[-1])
    if dump.command:
        told = [_titled(peer, dumps.get(peer.rank, "the group had ended")) for peer in peers]
        parts.append([f"What {dump.command[0]} says of them:", *told])
    parts.append(
        ["The last lines of their stderr:", *(_titled(peer, last_lines.take(peer.last_lines())) for peer in peers)]
    )
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


class _Room:
    """Room for one kind of evidence, first come, first served."""

    def __init__(self) -> None:
        self._left = ROOM

    def take(self, text: str) -> str:
        """As much of the text as there is room for, with words for the rest."""
        kept = text[: self._left]
        self._left -= len(kept)
        return (
            kept
            if len(kept) == len(text)
            else f"{kept}\n({len(text) - len(kept)} characters left out for want of room)"
        )


def create(path: str) -> tuple[int, str]:
    """A file that was not there before, to be written, and its path: with a number behind the name where there are
    others of that name already. Raises ``OSError``."""
    stem, suffix = os.path.splitext(path)
    number = 1
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640), path
        except FileExistsError:
            number += 1
            if number > FINDINGS:
                raise
            path = f"{stem}.{number}{suffix}"


def write(file: int, text: str) -> str:
    """Write all of it, and close the file; returns why that could not be, else ""."""
    try:
        left = text.encode(errors="replace")
        while left:
            left = left[os.write(file, left) :]
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(file)
    return ""


def _said(peer: Peer) -> str:
    told, now = peer.told, clock.now()
    words = []
    if told is not None:
        words += [f"in section '{one.name}' for {now - one.begun_at:.1f} s" for one in told.sections]
        if told.progress is not None:
            words.append(f"progress {told.progress}, {now - told.progress_at:.1f} s ago")
        if told.status:
            words.append(told.status)
    return f"rank {peer.rank} (pid {peer.pid}): {'; '.join(words) or 'nothing'}"


async def _look(peers: Sequence[Peer], lines: list[str]) -> None:
    began_at = slice_at = clock.now()
    for number, peer in enumerate(peers):
        if number and clock.now() - began_at > LOOKS_FOR:
            left = ", ".join(str(one.rank) for one in peers[number:])
            lines.append(f"not looked at, for want of time: ranks {left}")
            break
        lines.append(f"rank {peer.rank}:")
        pid = 0
        for thread in family(peer.pid):
            if thread.pid != pid:
                pid = thread.pid
                lines.append(f"  {pid}: {_status(pid)}")
            call = read(f"/proc/{pid}/task/{thread.tid}/syscall").strip()
            lines.append(f"    {where(thread)}{f' (system call {call})' if call else ''}")
            if clock.now() - began_at > LOOKS_FOR:
                lines.append("    no more of it is looked at, for want of time")
                break
            if clock.now() - slice_at > SLICE:
                await anyio.lowlevel.checkpoint()
                slice_at = clock.now()


def _status(pid: int) -> str:
    status = read(f"/proc/{pid}/status").splitlines()
    return ", ".join(" ".join(line.split()) for line in status if line.startswith(_STATUS))


async def _run(
    peers: Sequence[Peer], dump: DumpRules, leave_alone: Callable[[int], None], dumps: dict[int, str]
) -> None:
    """The command for each, the first one first, until the time is over."""
    until = clock.now() + dump.wait
    several, room = anyio.CapacityLimiter(AT_A_TIME), _Room()

    async def one(peer: Peer) -> None:
        async with several:
            written = await _output(peer, dump, round(until - clock.now(), 2), leave_alone)
        dumps[peer.rank] = written if peer is peers[0] else room.take(written)

    async with anyio.create_task_group() as tasks:
        for peer in peers:
            tasks.start_soon(one, peer)


async def _output(peer: Peer, dump: DumpRules, within: float, leave_alone: Callable[[int], None]) -> str:
    if within <= 0:
        return "no time was left"
    names = {"pid": str(peer.pid), "rank": str(peer.rank), "local_rank": str(peer.local_rank)}
    argv = [substitute(word, names) for word in dump.command]
    try:
        file = _file_of_fixed_size()
    except OSError as error:
        return f"it cannot be run: {error.strerror}"
    try:
        wrong = await run_command(argv, b"", handed_on(os.environ), within, leave_alone, output=file)
        written = os.pread(file, os.lseek(file, 0, os.SEEK_CUR), 0).decode(errors="replace")
    finally:
        os.close(file)
    return f"{written}{f'it {wrong}' if wrong else ''}"


def _file_of_fixed_size() -> int:
    """To write beyond its end fails: of a command that goes on for ever there is a beginning. Raises ``OSError``."""
    file = os.memfd_create("dump", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, DUMP)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except OSError:
        os.close(file)
        raise
    return file


def _signal(pid: int, signal: int) -> None:
    with suppress(OSError):  # short of descriptors: there is other evidence
        process = read_process(pid)
        if process is not None and _catches(pid, signal):  # whoever does not would die of it
            send(process, signal)


def _catches(pid: int, signal: int) -> bool:
    """By its set of caught signals (proc_pid_status(5), SigCgt)."""
    _, _, caught = read(f"/proc/{pid}/status").partition("SigCgt:")
    return bool(caught) and bool(int(caught.split()[0], 16) >> (signal - 1) & 1)


def _titled(peer: Peer, text: str) -> str:
    lines = text.splitlines() or ["(nothing)"]
    return "\n".join([f"rank {peer.rank}:", *(f"  {line}" for line in lines)])
