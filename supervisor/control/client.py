"""The client's side of the control socket: one request a connection, and the stream of records.

HTTP/1.0 by hand: the answer ends where the connection does, and a verb need not wait for an HTTP library to load.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

from supervisor.errors import BUG, CONFIG, NOT_PERMITTED, TRY_AGAIN, UNAVAILABLE, USAGE, RankdError

PATIENCE = 30.0
"""Seconds for an answer: a daemon that has just been started first loads what it needs to give one."""

READING = 90.0
"""Seconds for what reads a file, or looks at workers: the daemon gives up earlier."""

MOST = 64 << 20
"""Bytes of an answer; a thousand workers are 300 KB."""

Record = dict[str, Any]

_EXIT_CODES = {403: NOT_PERMITTED, 404: USAGE, 400: USAGE, 409: 1, 422: CONFIG, 500: BUG, 503: TRY_AGAIN}


class Unreachable(RankdError):
    """No daemon answers."""

    exit_code = UNAVAILABLE


class Refused(RankdError):
    """The daemon will not do it; what it says, with the code for it."""

    def __init__(self, status: int, said: Mapping[str, Any]) -> None:
        self.exit_code = _EXIT_CODES.get(status, UNAVAILABLE)
        self.mistakes: Sequence[str] = said.get("mistakes", ())
        super().__init__(said.get("error", f"the daemon answers {status}"))


class Forbidden(Refused):
    """We may not even connect."""


def candidates(environ: Mapping[str, str]) -> list[str]:
    """Where a daemon's control socket may be, the likeliest first."""
    places = []
    if given := environ.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        places.append(given)
    if os.path.isabs(xdg := environ.get("XDG_RUNTIME_DIR", "")):
        places.append(os.path.join(xdg, "rankd"))
    places.append("/run/rankd")
    return [os.path.join(place, "control.sock") for place in places]


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon, by the path of its control socket."""

    path: str

    @classmethod
    def find(cls, given: str | None, environ: Mapping[str, str]) -> Daemon:
        """The one that ``--socket`` names, else the first that listens. Raises ``Unreachable``, or ``Forbidden`` where
        somebody may be who is not for us."""
        if given is not None:
            return cls(given)
        tried, forbidden = candidates(environ), None
        for path in tried:
            try:
                cls(path).connect(PATIENCE).close()
            except Forbidden as error:
                forbidden = forbidden or error
            except Unreachable:
                continue
            else:
                return cls(path)
        if forbidden is not None:
            raise forbidden
        raise Unreachable(f"no daemon is here: nobody listens on {' or '.join(tried)} (--socket PATH names another)")

    def status(self) -> dict[str, Any]:
        """As ``/status`` of the health listener, with ``seq`` (of the last record) and ``logs`` (a folder a group)."""
        return self._ask("GET", "/status", PATIENCE)

    def hosts_of(self, group: str) -> dict[str, Any]:
        """Who leads the job of a group that shares its world, and how its hosts stand; or ``error``."""
        return self._ask("GET", f"/groups/{quote(group, safe='')}/hosts", PATIENCE)

    def plan(self, path: str) -> dict[str, Any]:
        """What a reload with that file would change. Raises ``Refused`` with ``mistakes`` for a wrong file."""
        return self._ask("GET", f"/plan?{urlencode({'path': path})}", READING)

    def ask(self, verb: str) -> dict[str, Any]:
        """Have a verb of the daemon's done."""
        return self._ask("POST", f"/{verb}", READING if verb == "reload" else PATIENCE)

    def ask_of(self, group: str, verb: str, **options: object) -> dict[str, Any]:
        """Have a verb of a group's done."""
        query = urlencode({name: value for name, value in options.items() if value is not None})
        within = READING if verb in ("dump", "scale") else PATIENCE
        return self._ask("POST", f"/groups/{quote(group, safe='')}/{verb}?{query}", within)

    def _ask(self, method: str, target: str, within: float) -> dict[str, Any]:
        with ExitStack() as stack:
            wire = stack.enter_context(self.connect(within))
            try:
                wire.sendall(_request(method, target))
                answer = bytearray()
                while chunk := wire.recv(1 << 16):
                    answer += chunk
                    if len(answer) > MOST:
                        raise Unreachable(f"{self.path}: the answer has no end")
            except TimeoutError:
                raise Unreachable(f"{self.path}: no answer within {within:g} s") from None
            except OSError as error:
                raise Unreachable(f"{self.path}: {error.strerror}") from error
        if not answer:
            raise Unreachable(f"{self.path}: the daemon has ended before it answered")
        status, body = _parsed(bytes(answer), self.path)
        if status != 200:
            raise Refused(status, body)
        return body

    def connect(self, within: float) -> socket.socket:
        """A connection to it. Raises ``Unreachable``, or ``Forbidden``."""
        wire = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        wire.settimeout(within)
        try:
            wire.connect(self.path)
        except PermissionError:
            wire.close()
            raise Forbidden(403, {"error": f"{self.path}: uid {os.geteuid()} may not connect"}) from None
        except (OSError, ValueError) as error:
            wire.close()
            why: Mapping[type[Exception], str] = {
                ConnectionRefusedError: "nobody listens there",
                FileNotFoundError: "there is no such socket",
            }
            words = why.get(type(error)) or getattr(error, "strerror", None) or str(error)
            raise Unreachable(f"no daemon answers on {self.path}: {words}") from None
        return wire


class Stream:
    """The records that a daemon tells, from a number on; close it."""

    def __init__(self, daemon: Daemon, since: int) -> None:
        self._daemon = daemon
        self._last = since
        self._path = daemon.path
        self._begin()

    def _begin(self) -> None:
        self._wire = self._daemon.connect(PATIENCE)
        self._wire.sendall(_request("GET", f"/events?since={self._last}"))
        self._unread = b""
        self._answered = False

    def _go_on(self) -> None:
        """We were too slow, and have been cut off; or the daemon has ended."""
        self._wire.close()
        try:
            goes_on = self._daemon.status()["seq"] >= self._last
            self._begin()
        except Unreachable:
            goes_on = False
        if not goes_on:
            raise Unreachable("the daemon has ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def read(self, until: float | None = None) -> list[Record]:
        """Those that have come, after waiting for one until that instant (monotonic; None: for as long as it takes).

        A record ``{"event": "lost", ...}`` stands where some are missing. Raises ``Unreachable`` when the daemon ends.
        """
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._wire], [], [], left)[0]:
                return []
            try:
                chunk = self._wire.recv(1 << 16)
            except ConnectionError:
                chunk = b""
            if not chunk:
                self._go_on()
                continue
            self._unread += chunk
            if not self._answered:
                head, end, rest = self._unread.partition(b"\r\n\r\n")
                if not end:
                    continue
                if b" 200 " not in head.partition(b"\r\n")[0]:
                    raise Refused(*_parsed(self._unread, self._path))
                self._answered, self._unread = True, rest
            *whole, self._unread = self._unread.split(b"\n\n")
            if records := [record for block in whole if (record := _record(block)) is not None]:
                self._last = max(self._last, *(record.get("seq", 0) for record in records))
                return records


def _request(method: str, target: str) -> bytes:
    return f"{method} {target} HTTP/1.0\r\nHost: rankd\r\n\r\n".encode()


def _parsed(answer: bytes, path: str) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        status, said = int(head.split()[1]), json.loads(body)
        if isinstance(said, dict):
            return status, said
    except (ValueError, IndexError):
        pass
    raise Unreachable(f"{path}: what answers there is no rankd")


def _record(block: bytes) -> Record | None:
    """What a server-sent event has to say; None for a comment or what is only about the stream itself."""
    data = [line[6:] for line in block.splitlines() if line.startswith(b"data: ")]
    if not data:
        return None
    record: Record = json.loads(data[0])
    return {**record, "event": "lost"} if b"event: lost" in block.splitlines() else record
