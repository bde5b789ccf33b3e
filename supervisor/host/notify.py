"""The workers' side of sd_notify(3): a datagram socket a group, and who has sent what.

The sender is whom the kernel says it was (SCM_CREDENTIALS, unix(7)), and only processes of the group's workers are
heard. Descriptors that come along are never taken into our table, for want of room in the control buffer: the kernel
closes them as the message is received, which is just what BARRIER=1 waits for.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from supervisor.core.messages import Worker
from supervisor.core.watchdog import HEARTBEAT, Notice
from supervisor.host.timer_pipe import NOT_NOW

LARGEST = 4096
"""Bytes of a datagram at most, as with systemd (NOTIFY_BUFFER_MAX)."""

NAME = 200
"""Characters of a section's name at most."""

A_TURN = 256
"""Datagrams taken before the loop may serve others. As a rule the kernel lets ten wait (net.unix.max_dgram_qlen)."""

_PATH = 107  # sockaddr_un has 108 bytes, the last of them a NUL (unix(7))
_CREDENTIALS = struct.Struct("=iII")
_CONTROL = socket.CMSG_SPACE(_CREDENTIALS.size)
_LONGEST = 1 << 62  # microseconds
_HEARTBEAT = b"WATCHDOG=1"
_BEYOND = socket.MSG_TRUNC
_BLANKED = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], " ")


def parse(datagram: bytes) -> Notice | None:
    """What the datagram says; None if it is not NAME=VALUE lines throughout, or has a value that cannot be.

    A name that is not ours to act on (MAINPID, FDSTORE, ERRNO, another ``X_`` ...) is passed over, as sd_notify(3)
    asks of whoever does not know it.
    """
    if datagram in {_HEARTBEAT, _HEARTBEAT + b"\n"}:
        return HEARTBEAT
    try:
        text = datagram.decode(errors="replace")  # a status in another alphabet is no reason to miss READY=1
        return _notice(text) if text and "\0" not in text else None
    except ValueError:
        return None


def _notice(text: str) -> Notice:
    """Raises ``ValueError``."""
    notice = Notice()
    sections: list[tuple[bool, str]] = []
    for line in text.removesuffix("\n").split("\n"):
        name, is_field, value = line.partition("=")
        if not is_field or not name:
            raise ValueError(line)
        match name:
            case "READY" if value == "1":
                notice = notice._replace(ready=True)
            case "STOPPING" if value == "1":
                notice = notice._replace(stopping=True)
            case "WATCHDOG" if value == "1":
                notice = notice._replace(heartbeat=True)
            case "WATCHDOG" if value == "trigger":
                notice = notice._replace(trigger=True)
            case "WATCHDOG_USEC":
                notice = notice._replace(heartbeat_every=_number(value) / 1_000_000)
            case "EXTEND_TIMEOUT_USEC":
                notice = notice._replace(extend_by=_number(value) / 1_000_000)
            case "STATUS":
                notice = notice._replace(status=value.translate(_BLANKED))
            case "X_PROGRESS":
                notice = notice._replace(progress=_number(value))
            case "X_SECTION_BEGIN" | "X_SECTION_END":
                if not 0 < len(value) <= NAME or not value.isprintable():
                    raise ValueError(line)
                sections.append((name == "X_SECTION_BEGIN", value))
    return notice._replace(sections=tuple(sections)) if sections else notice


def _number(text: str) -> int:
    """A decimal number without sign or space. Raises ``ValueError``."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _LONGEST):
        raise ValueError(text)
    return int(text)


class NotifySocket:
    """One group's socket, from before its first worker to after its last.

    ``address`` is NOTIFY_SOCKET's value for the workers. ``refused`` counts datagrams that say nothing we understand,
    ``foreign`` those of processes that are no worker's: these move nothing else.
    """

    def __init__(
        self,
        path: str,
        owner: Callable[[int], Worker | None],
        hear: Callable[[Worker, Notice], None],
        *,
        user: tuple[int, int] | None = None,
    ) -> None:
        """``owner`` says whose process a number is. ``user``: the uid and gid of workers who are not ours.

        A path that is too long for a socket is given up for an abstract name that nobody can guess; who may send is
        decided by credentials in either case. What is at ``path`` is replaced. Raises ``OSError`` and leaves nothing
        open then.
        """
        self.taken = 0
        self.refused = 0
        self.foreign = 0
        self._owner = owner
        self._hear = hear
        self._buffer = bytearray(LARGEST)
        self._view = memoryview(self._buffer)
        self._into = [self._buffer]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting = max(A_TURN, _queue() + 1)
        self._path = path if len(os.fsencode(path)) <= _PATH else ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self.address = self._bind(user)
        except OSError:
            self.close()
            raise

    def _bind(self, user: tuple[int, int] | None) -> str:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        if not self._path:
            name = f"rankd-{os.urandom(16).hex()}"
            self._socket.bind(f"\0{name}")
            return f"@{name}"
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        self._socket.bind(self._path)
        os.chmod(self._path, 0o600)
        if user is not None:
            os.chown(self._path, *user, follow_symlinks=False)
        return self._path

    def listen(self) -> None:
        """Read in the running loop whenever something is there, and never otherwise."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self.drain)

    def drain_all(self) -> None:
        """Take all that was there before, however many the kernel lets wait: what comes meanwhile may be left."""
        self._drain(self._waiting)

    def drain(self) -> None:
        """Take what is there now, one datagram after the other: each is acted on before the next is received."""
        self._drain(A_TURN)

    def _drain(self, most: int) -> None:
        for _ in range(most):
            try:
                size, control, flags, _ = self._socket.recvmsg_into(self._into, _CONTROL)
            except OSError as error:  # no memory for it now: we are woken again
                if error.errno in NOT_NOW or self._socket.fileno() < 0:  # closed, by what the last one led to
                    return
                raise
            self._take(size, control, flags)

    def _take(self, size: int, control: list[tuple[int, int, bytes]], flags: int) -> None:
        if flags & _BEYOND:
            self.refused += 1
            return
        worker = self._owner(_sender(control))
        if worker is None:
            self.foreign += 1
            return
        notice = parse(bytes(self._view[:size]))
        if notice is None:
            self.refused += 1
            return
        self.taken += 1
        self._hear(worker, notice)

    def close(self) -> None:
        """Read no more, and remove the socket. Idempotent."""
        if self._socket.fileno() < 0:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)


def _queue() -> int:
    """Datagrams that a socket made now lets wait (unix(7))."""
    with suppress(OSError, ValueError), open("/proc/sys/net/unix/max_dgram_qlen", encoding="ascii") as file:
        return int(file.read())
    return 0


def _sender(control: list[tuple[int, int, bytes]]) -> int:
    """The process that has sent it, by the kernel's word; 0 for one that is not in our namespace."""
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(data) == _CREDENTIALS.size:
            return int(_CREDENTIALS.unpack(data)[0])
    return 0
