"""Our side of systemd's protocols: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3), JOURNAL_STREAM.

Without systemd (no ``NOTIFY_SOCKET`` and the rest in the environment) everything here does nothing.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

import anyio

from supervisor import clock

STATUS_BYTES = 1024
"""Where a STATUS line is cut: systemd refuses a datagram of more than 4096 bytes whole, READY=1 in it included."""

_FIRST_FD = 3
_OWED = 16
_BLANKED = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], " ")
_PASSED_ON = (
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"
)  # fmt: skip


class Notifier:
    """Tells systemd about us; never raises and never blocks. ``lost`` counts datagrams that systemd did not take.

    A change of state (ready, reloading, stopping, status) that was not taken is owed and goes ahead of whatever is
    sent next; ``settle`` sees to it when nothing else is sent. ``address`` is ``NOTIFY_SOCKET``'s value: a path, or
    ``@name`` for an abstract socket; anything else, and nothing, makes a notifier that does nothing.
    """

    def __init__(self, address: str = "") -> None:
        self.lost = 0
        self._status = ""
        self._owed: deque[bytes] = deque(maxlen=_OWED)
        self._socket: socket.socket | None = None
        if address[:1] in {"/", "@"}:
            self._address = os.fsencode(address if address[0] == "/" else "\0" + address[1:])
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Notifier:
        """The notifier of ``NOTIFY_SOCKET``."""
        return cls(environ.get("NOTIFY_SOCKET", ""))

    @property
    def owes(self) -> bool:
        """Something that systemd must know has not reached it."""
        return bool(self._owed)

    def ready(self, status: str = "") -> None:
        """Started, or done with a reload; with a status line if there is one."""
        self._tell("READY=1", *self._status_line(status))

    def status(self, text: str) -> None:
        """One line for ``systemctl status``. The same line as before is not sent again."""
        if line := self._status_line(text):
            self._tell(*line)

    def stopping(self, status: str = "") -> None:
        """On the way down."""
        self._tell("STOPPING=1", *self._status_line(status))

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it. The time stamp lets Type=notify-reload tell this reload from the last."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(clock.now() * 1_000_000)}")

    def extend_timeout(self, seconds: float) -> None:
        """Systemd waits for so many seconds from now, or for a further such message, before it calls us stuck."""
        self._send(f"EXTEND_TIMEOUT_USEC={max(1, int(seconds * 1_000_000))}".encode())

    def watchdog(self) -> None:
        """Still alive."""
        self._send(b"WATCHDOG=1")

    def pay(self) -> bool:
        """Send what is owed, oldest first; true when nothing is owed any more."""
        while self._owed and self._taken(self._owed[0]):
            self._owed.popleft()
        return not self._owed

    def close(self) -> None:
        """Let go of the socket; the notifier does nothing from here on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._owed.clear()

    def _status_line(self, text: str) -> tuple[str, ...]:
        text = _one_line(text)
        if not text or text == self._status:
            return ()
        self._status = text
        return (f"STATUS={text}",)

    def _tell(self, *fields: str) -> None:
        message = "\n".join(fields).encode()
        if self._socket is None or self._send(message):
            return
        if message.startswith(b"STATUS=") and self._owed and self._owed[-1].startswith(b"STATUS="):
            self._owed.pop()  # a newer line takes the place of the older
        self._owed.append(message)

    def _send(self, message: bytes) -> bool:
        return self.pay() and self._taken(message)

    def _taken(self, message: bytes) -> bool:
        if self._socket is None:
            return False
        try:
            # Addressed each time instead of connected once: whoever binds the name anew is reached without further ado.
            self._socket.sendto(message, self._address)
        except OSError:  # full (EAGAIN), not there (ENOENT, ECONNREFUSED), not ours (EACCES): systemd's to notice
            self.lost += 1
            return False
        return True


def _one_line(text: str) -> str:
    """``text`` in valid UTF-8 without control characters, at most ``STATUS_BYTES``; cut between characters."""
    raw = text.translate(_BLANKED).encode(errors="replace")
    if len(raw) > STATUS_BYTES:
        raw = raw[: STATUS_BYTES - 3].decode(errors="ignore").encode() + "…".encode()
    return raw.decode()


async def settle(notifier: Notifier, within: float = 60.0, every: float = 0.2) -> bool:
    """Return when nothing is owed (at once, as a rule): true; false when ``within`` seconds were not enough.

    A lost READY=1 would otherwise be owed for as long as nothing else is said, and systemd would kill a healthy
    service at TimeoutStartSec.
    """
    until = clock.now() + within
    while not notifier.pay():
        if clock.now() >= until:
            return False
        await anyio.sleep(every)
    return True


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two WATCHDOG=1: half of what systemd allows; None when it does not watch process ``pid``."""
    usec = _number(environ.get("WATCHDOG_USEC", ""))
    if not usec or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return usec / 2_000_000


async def feed_watchdog(notifier: Notifier, interval: float, alive: Callable[[], bool]) -> None:
    """Ping at once and every ``interval`` seconds while ``alive()``; until cancelled.

    Runs in the loop it vouches for: a loop that does not turn does not ping. An idle daemon's one periodic wake-up.
    """
    while True:
        if alive():
            notifier.watchdog()
        await anyio.sleep(interval)


def extend_until(notifier: Notifier, deadline: float, now: float, margin: float = 10.0) -> bool:
    """Ask systemd for the time to ``deadline`` (monotonic) and ``margin`` seconds; false when it has passed."""
    if deadline <= now:
        return False
    notifier.extend_timeout(deadline - now + margin)
    return True


async def keep_extending(notifier: Notifier, deadline: Callable[[], float | None], every: float = 5.0) -> None:
    """Ask for the time to ``deadline()`` at once and every ``every`` seconds; return when it is None or has passed.

    Asked again because the deadline may move (a second group begins its ladder) and because a datagram may be lost;
    systemd counts the first one from TimeoutStopSec, so it must come before that is over.
    """
    while True:
        at = deadline()
        if at is None or not extend_until(notifier, at, clock.now(), margin=2 * every):
            return
        await anyio.sleep(every)


@dataclass(frozen=True, slots=True)
class SocketsRefused:
    """What systemd passed cannot be listened on, and why."""

    reason: str


def listen_fds(environ: Mapping[str, str], pid: int) -> list[tuple[str, socket.socket]] | SocketsRefused:
    """The listening stream sockets passed to process ``pid`` with their names, in order; [] when there are none.

    The names are FileDescriptorName= of the socket units, ``unknown`` where none was given. Every descriptor is made
    close-on-exec, refused or not. Call it once: the sockets own their descriptors.
    """
    if environ.get("LISTEN_PID") != str(pid) or "LISTEN_FDS" not in environ:
        return []
    count = _number(environ["LISTEN_FDS"])
    if count is None:
        return SocketsRefused(f"LISTEN_FDS={environ['LISTEN_FDS']!r} is not a number")
    fds = range(_FIRST_FD, _FIRST_FD + count)
    for fd in fds:
        try:
            os.set_inheritable(fd, False)
        except (OSError, OverflowError):
            return SocketsRefused(f"LISTEN_FDS={count}, but descriptor {fd} was not passed")
    names = environ["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environ else ["unknown"] * count
    if len(names) != count:
        return SocketsRefused(f"LISTEN_FDS={count}, but LISTEN_FDNAMES names {len(names)}")
    found: list[tuple[str, socket.socket]] = []
    for name, fd in zip(names, fds, strict=True):
        passed = _listener(fd)
        if isinstance(passed, str):
            for _, other in found:
                other.detach()
            return SocketsRefused(f"descriptor {fd} ({name}) {passed}")
        found.append((name, passed))
    return found


def _listener(fd: int) -> socket.socket | str:
    """The listening stream socket behind ``fd``, or what is wrong with it."""
    try:
        passed = socket.socket(fileno=fd)
    except OSError as error:
        return f"is not a socket: {error.strerror}"
    if passed.type != socket.SOCK_STREAM:
        wrong = "is not a stream socket (use ListenStream=)"
    elif not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        wrong = "does not listen (use Accept=no)"
    else:
        return passed
    passed.detach()
    return wrong


def forget(environ: MutableMapping[str, str]) -> None:
    """Remove what systemd told us about us, once it is read, so that no child takes it for its own."""
    for name in _PASSED_ON:
        environ.pop(name, None)


def is_journal(environ: Mapping[str, str], fd: int) -> bool:
    """``fd`` really is the journal's stream: JOURNAL_STREAM's device and inode are those of the descriptor itself.

    The variable alone says nothing: it is inherited by children, redirected ones included (systemd.exec(5)).
    """
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (_number(device), _number(inode)) == (found.st_dev, found.st_ino)


def _number(text: str) -> int | None:
    """A decimal number without sign or space, of at most 20 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None
