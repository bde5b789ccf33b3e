"""Records as entries of journald, with fields that can be asked for: ``journalctl -u rankd RANK=1``.

``MESSAGE`` is the record itself, one line of JSON. An entry that journald does not take, because it is full, restarting
or not there, goes to stdout as a line instead, which is journald's too and waits for it there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from functools import cache

from supervisor import clock
from supervisor.core.events import Event
from supervisor.host.journal import Journal, field

PRIORITY: Mapping[str, int] = {"error": 3, "warning": 4, "info": 6, "debug": 7}
"""Levels as syslog priorities (syslog(3))."""

_FIELDS: Mapping[str, str] = {"rank": "RANK", "local_rank": "LOCAL_RANK", "attempt": "RANKD_ATTEMPT"}
_LOOKS_AGAIN = 0.002


@cache
def message_id(event: str) -> str:
    """The MESSAGE_ID of that kind of event: 128 bits in hexadecimal, the same for ever (see systemd/rankd.catalog)."""
    return hashlib.blake2b(event.encode(), digest_size=16, person=b"rankd event").hexdigest()


class JournalRecords:
    """Sends records to ``journal``; all that are told in one turn of the loop at its end, so that nobody waits."""

    def __init__(
        self,
        journal: Journal,
        run_id: str,
        otherwise: Callable[[bytes], object],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        """``otherwise`` takes the line of a record that is refused; ``soon``: the loop's ``call_soon``."""
        self._journal = journal
        self._always = field("SYSLOG_IDENTIFIER", b"rankd") + field("RANKD_RUN_ID", _bytes(run_id))
        self._otherwise = otherwise
        self._soon = soon
        self._waiting: list[tuple[Event, bytes, bytes]] = []

    def add(self, event: Event, message: bytes, line: bytes) -> None:
        """``message`` is the record, ``line`` what stdout gets if journald does not."""
        self._waiting.append((event, message, line))
        if len(self._waiting) == 1:
            self._soon(self.flush)

    def flush(self) -> None:
        """Everything added so far is sent, or written as lines."""
        waiting, self._waiting = self._waiting, []
        for event, message, line in waiting:
            if self._journal.send(self.entry(event, message)) is not None:
                self._otherwise(line)

    def entry(self, event: Event, message: bytes) -> bytes:
        """The datagram (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
        fields = [
            self._always,
            b"PRIORITY=%d\nMESSAGE_ID=%s\n" % (PRIORITY[event.level], message_id(event.name).encode()),
            field("RANKD_EVENT", event.name.encode()),
        ]
        if event.group is not None:
            fields.append(field("RANKD_GROUP", _bytes(event.group)))
        fields += [
            b"%s=%d\n" % (_FIELDS[name].encode(), event.fields[name]) for name in _FIELDS if name in event.fields
        ]
        if "rank" in event.fields and event.fields.get("pid") is not None:
            fields.append(b"WORKER_PID=%d\n" % event.fields["pid"])
        return b"".join([*fields, field("MESSAGE", message)])

    def close(self, within: float) -> None:
        """Send what is left, and wait up to ``within`` seconds for journald to have read it.

        It looks up whose a message is when it reads it: the last words of a process that is gone by then would not be
        found under its unit.
        """
        self.flush()
        until = clock.now() + within
        while self._journal.unread() and clock.now() < until:
            time.sleep(_LOOKS_AGAIN)
        self._journal.close()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
