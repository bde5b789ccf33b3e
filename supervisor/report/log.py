"""Events as lines: JSON for machines, JSON with a priority for journald, prose for people at a terminal.

structlog takes an event through its level filter and a short chain of processors; what comes out is written by
``Records`` itself, so that a record costs microseconds and a stuck reader costs nothing.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal

from supervisor import clock
from supervisor.core.events import Event, Level
from supervisor.plan import Format
from supervisor.report.prose import Prose


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Modules of these names cannot be imported meanwhile, unless they are there already."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's own word for "not to be found"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# structlog imports whatever it could draw pretty tracebacks with, if it happens to be installed. We draw none, and
# rich alone would cost every start of the daemon 70 ms and 9 MiB. Whoever wants these packages can import them after.
with _hidden("rich", "better_exceptions", "colorama", "twisted"):
    import structlog
    from structlog.processors import JSONRenderer
    from structlog.testing import ReturnLogger

LINE_LIMIT = 32 * 1024
"""Longest record in bytes; journald would split a line at 48 KiB (journald.conf(5), LineMax=)."""

PRIORITY: Mapping[str, bytes] = {"error": b"<3>", "warning": b"<4>", "info": b"<6>", "debug": b"<7>"}
"""Levels as syslog priorities (sd-daemon(3)); systemd takes them off the line again."""

SEVERITY: Mapping[str, int] = {"error": 40, "warning": 30, "info": 20, "debug": 10}
"""Levels as structlog filters them."""

DEEPEST = 8
"""How many levels of a nested field are kept when it has to be cut."""


def resolve_format(wanted: Format, *, journal: bool, tty: bool) -> Literal["json", "console", "journal"]:
    """What "auto" means: ``journal`` when stdout is the journal itself, ``console`` on a terminal, else ``json``."""
    if wanted != "auto":
        return wanted
    return "journal" if journal else "console" if tty else "json"


class Records:
    """Tells events as lines. ``seq`` counts the lines told, from 1, without gaps: a gap is a lost line."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        service: str,
        host: str,
        run_id: str,
        level: Level = "info",
        format: Literal["json", "console", "journal"] = "json",
        colour: bool = False,
        journal: Callable[[Event, bytes, bytes], object] | None = None,
    ) -> None:
        """``write`` takes one whole line at a time and must neither block nor raise; ``colour`` is for the console.

        ``journal`` takes every event in place of ``write``: with its record, and with the line that it would be.
        """
        self._write = write
        self._journal = journal
        self._priority = PRIORITY if format == "journal" else {}
        self._seq = 0
        self._format = format
        chain: list[Any]
        if format == "console":
            chain = [self._count, Prose(service, colour=colour)]
        else:
            chain = [self._count, self._compose, JSONRenderer(serializer=to_json)]
        context: dict[str, Any] = {"service": service, "host": host, "run_id": run_id}
        self._about = context

        def logger(least: Level) -> Any:
            wrapper = structlog.make_filtering_bound_logger(SEVERITY[least])
            return structlog.wrap_logger(ReturnLogger(), chain, wrapper, dict, **context).bind()

        self._logger = logger
        self.set_level(level)
        self._mark = logger("debug").warning

    def set_level(self, level: Level) -> None:
        """From here on, events below that level are not told."""
        log = self._logger(level)
        self._render = {name: getattr(log, name) for name in PRIORITY}

    def tell(self, event: Event) -> tuple[int, Event | bytes] | None:
        """Write one line about an event, unless its level is below ours.

        Returns its number and, if that is what has been written, its JSON: so ``line`` need not make it once more.
        """
        record: bytes | None = self._render[event.level](event.name, told=event)
        if record is None:
            return None
        line = b"%s%s\n" % (self._priority.get(event.level, b""), record)
        if self._journal is None:
            self._write(line)
        else:
            self._journal(event, record, line)
        return self._seq, (event if self._format == "console" else record)

    def line(self, event: Event, seq: int) -> bytes:
        """The record of an event that has been told under this number, whatever our own format is."""
        return to_json(self._record(event, seq))

    def dropped(self, lost: int) -> bytes:
        """The line that stands where ``lost`` bytes of lines could not be written."""
        event = Event(
            "log.lines_dropped", "warning", clock.now(),
            f"{lost} bytes of records were dropped: nobody read them in time", None, {"dropped_bytes": lost},
        )  # fmt: skip
        return b"%s%s\n" % (self._priority.get(event.level, b""), self._mark(event.name, told=event))

    def _count(self, _logger: object, _level: str, context: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self._seq += 1
        return context

    def _compose(self, _logger: object, _level: str, context: MutableMapping[str, Any]) -> dict[str, Any]:
        return self._record(context["told"], self._seq)

    def _record(self, event: Event, seq: int) -> dict[str, Any]:
        always = {
            "timestamp": clock.rfc3339(event.at),
            "level": event.level,
            "event": event.name,
            "message": event.message,
            "seq": seq,
            **self._about,
        }
        record = always.copy()
        if event.group is not None:
            record["group"] = event.group
        record.update(event.fields)
        record.update(always)  # whatever a field is called, these mean what they say
        return record


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


def to_json(record: Mapping[str, Any], **_: object) -> bytes:
    """A record as one line of JSON in valid UTF-8, at most ``LINE_LIMIT`` bytes, whatever is in it.

    What JSON cannot say is said in words; of texts too long the beginning and the end are kept.
    """
    try:
        line = _utf8(_encode(record))
    except (TypeError, ValueError, RecursionError):
        line = _utf8(_encode(_plain(record, LINE_LIMIT)))
    if len(line) > LINE_LIMIT:
        for limit in (8192, 2048, 512, 128, 32):
            line = _utf8(_encode(_plain(record, limit)))
            if len(line) <= LINE_LIMIT:
                break
    return line


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates: bytes of a path or an error message that were not UTF-8
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _plain(value: Any, limit: int, depth: int = 0) -> Any:
    """A value that JSON has a word for, with texts and lists cut to about ``limit``."""
    match value:
        case None | bool():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else _cut(hex(value), limit)
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return _cut(value, limit)
        case bytes():
            return _cut(value.decode("utf-8", "backslashreplace"), limit)
        case dict() if depth < DEEPEST:
            kept = list(value.items())[: max(16, limit // 64)]
            return {str(_plain(key, limit, DEEPEST)): _plain(item, limit, depth + 1) for key, item in kept}
        case list() | tuple() | set() | frozenset() if depth < DEEPEST:
            return [_plain(item, limit, depth + 1) for item in list(value)[: limit // 64]]
        case _:
            return f"<{type(value).__name__}>"  # and not its repr: nobody knows what is in that


def _cut(text: str, limit: int) -> str:
    """The first third and the last two thirds of a long text: what it is about, and how it ended."""
    if len(text) <= limit:
        return text
    head = limit // 3
    tail = limit - head
    return f"{text[:head]} ... {len(text) - limit} characters cut ... {text[-tail:]}"
