"""Workers' lines in journald, one entry each with its rank and group as fields, and never a wait for it.

The protocol is systemd's "Native Journal Protocol" (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram is an entry.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import termios
from collections.abc import Iterable, Mapping
from contextlib import suppress

from supervisor import clock
from supervisor.host.sinks import LINE_LIMIT, Lines, Losses
from supervisor.plan import WorkerPlan

JOURNAL_SOCKET = "/run/systemd/journal/socket"
SEND_BUFFER = 8 << 20
"""Bytes that may wait for journald, as far as net.core.wmem_max allows; sd_journal_send(3) asks for as much."""

PRIORITIES = {"stdout": 6, "stderr": 4}
"""What a worker prints is information; what it prints to stderr deserves a look: ``journalctl -p warning``."""

EPISODE_ENDS_AFTER = 10.0
"""Seconds without a loss after which one is over. A journal that is just too slow loses a line here and there."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def field(name: str, value: bytes) -> bytes:
    """One field of an entry; a value with a newline in it has its length before it, in 64 bits, little-endian."""
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


class Journal:
    """journald's socket. A journald that is absent, restarting or slow is an error to count and nothing else."""

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        """Raises ``OSError`` for want of a descriptor."""
        self._path = path  # looked up anew for each entry: after a restart it is another socket
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def send(self, entry: bytes) -> OSError | None:
        """Why the entry is lost; None: journald has it."""
        try:
            try:
                self._socket.sendto(entry, self._path)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                self._send_as_file(entry)
        except OSError as error:
            return error
        return None

    def unread(self) -> int:
        """Bytes that journald has not read yet, as the kernel counts them (unix(7), SIOCOUTQ)."""
        count = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    def close(self) -> None:
        self._socket.close()

    def _send_as_file(self, entry: bytes) -> None:
        """An entry too large for a datagram: a sealed memfd_create(2) goes instead of it."""
        fd = os.memfd_create("rankd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(entry)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(fd)


class JournalLines(Lines):
    """Every line of one stream as an entry of its own."""

    __slots__ = ("_fields", "_journal", "_lost_at")

    def __init__(self, journal: Journal, fields: bytes, losses: Losses, limit: int = LINE_LIMIT) -> None:
        """``fields``: what all entries of the stream have, see ``entry_fields``."""
        super().__init__(b"", losses, limit)
        self._journal = journal
        self._fields = fields
        self._lost_at = 0.0

    def finish(self) -> None:
        super().finish()
        self._losses.end()

    def _put(self, lines: bytes) -> None:
        losses = self._losses
        for line in lines.removesuffix(b"\n").split(b"\n"):
            error = self._journal.send(self._fields + b"MESSAGE=" + line + b"\n")
            if error is not None:
                losses.add(len(line) + 1, error.strerror or str(error))
                self._lost_at = clock.now()
        if losses.bytes and clock.now() - self._lost_at > EPISODE_ENDS_AFTER:
            losses.end()


def entry_fields(plan: WorkerPlan, stream: str, pid: int) -> bytes:
    """The fields that all entries of a worker's stream have; those of its records are called the same."""
    labels = plan.labels
    given: Mapping[str, object] = {
        "PRIORITY": PRIORITIES[stream],
        "SYSLOG_IDENTIFIER": "rankd",
        "RANKD_GROUP": labels["group"],
        "RANKD_ATTEMPT": labels["attempt"],
        "RANKD_RUN_ID": plan.env.get("TORCHELASTIC_RUN_ID", ""),
        "RANKD_STREAM": stream,
        "RANK": labels["rank"],
        "LOCAL_RANK": labels["local_rank"],
        "WORKER_PID": pid,
    }
    return b"".join(_fields(given.items()))


def _fields(items: Iterable[tuple[str, object]]) -> Iterable[bytes]:
    for name, value in items:
        yield field(name, str(value).encode("utf-8", "surrogateescape"))
