"""An event as a line for people: when, how bad, who, and the sentence; besides, only what the sentence leaves out."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

from supervisor import clock

if TYPE_CHECKING:  # a client has records, and need not load the machine to show them
    from supervisor.core.events import Event

LEVELS = {"error": "ERROR", "warning": "WARN ", "info": "     ", "debug": "debug"}
"""A quiet night is a blank column."""

LONGEST = 2000
"""Characters of a sentence that are shown."""

NARROWEST, WIDEST = 12, 28
"""The column of who grows with what comes, within these."""

RESET, DIM, BOLD, RED, GREEN, YELLOW, CYAN = (f"\x1b[{code}m" for code in ("0", "2", "1", "1;31", "32", "33", "36"))

_LEVEL_COLOURS = {"error": RED, "warning": YELLOW, "info": "", "debug": DIM}
_GOOD_NEWS = frozenset({"group.ready", "group.succeeded", "daemon.ready"})

# What would move the cursor, ring the bell or begin an escape sequence: C0, DEL, C1; and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPES = {"\n": "\\n", "\t": " ", "\r": "\\r", "\x1b": "\\e"}


def _lasted(milliseconds: Any) -> str:
    return clock.words(milliseconds / 1000)


_SURPRISING = {
    "outside": "from outside",
    "oom": "out of memory",
    "timer": "by a timer",
    "heartbeat": "for silence",
    "probe": "for its probe",
}
"""Who ended a worker, unless it was the worker itself or we, as one would expect."""

_FACTS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "pid": ("pid ", str),
    "by": ("", lambda by: _SURPRISING.get(by, "")),
    "ran_for_ms": ("after ", _lasted),
    "duration_ms": ("after ", _lasted),
    "reason": ("", str),
    "error": ("", str),
    "return_values": ("returned ", partial(json.dumps, ensure_ascii=False)),
}
"""What may be worth adding to a sentence, in this order: a word before it, and how it is said."""


class Prose:
    """The last processor of the console's chain."""

    def __init__(self, service: str, *, colour: bool) -> None:
        self._service = service
        self._width = NARROWEST
        self._paint = _paint if colour else _plainly

    def __call__(self, _logger: object, level: str, context: MutableMapping[str, Any]) -> bytes:
        event: Event = context["told"]
        paint = self._paint
        who, sentence = map(printable, self._subject(event))
        self._width = min(max(self._width, len(who)), WIDEST)
        colour = _LEVEL_COLOURS[level]
        parts = [
            paint(DIM, _time_of_day(event.at)),
            paint(colour, LEVELS[level]),
            paint(CYAN if event.group is not None else DIM, who.ljust(self._width)),
            paint(GREEN if event.name in _GOOD_NEWS else BOLD if level == "error" else colour, sentence),
        ]
        facts = _facts(event)
        if facts:
            parts.append(paint(DIM, f"({facts})"))
        return " ".join(parts).encode()

    def _subject(self, event: Event) -> tuple[str, str]:
        """Who it is about, and what is said of it: a sentence that begins with its subject does not repeat it."""
        sentence = event.message
        if event.group is None:
            return self._service, sentence
        rank = event.fields.get("rank")
        if rank is None:
            return event.group, sentence.removeprefix(f"group {event.group} ")
        for subject in (f"rank {rank} of group {event.group} ", f"rank {rank} "):
            if sentence.startswith(subject):
                return f"{event.group}/{rank}", sentence.removeprefix(subject)
        return f"{event.group}/{rank}", sentence


def _facts(event: Event) -> str:
    facts = []
    for name, (before, say) in _FACTS.items():
        value = event.fields.get(name)
        if value is None:
            continue
        try:
            words = say(value)
        except (TypeError, ValueError, OverflowError):  # it is not what it is called: JSON has it, people need not
            continue
        if words and words not in event.message and not _said_exactly(name, value, event.message):
            facts.append(printable(before + words))
    return ", ".join(facts)


def _said_exactly(name: str, value: Any, message: str) -> bool:
    """Whether the sentence has the duration in milliseconds, where we would say it in seconds."""
    return name.endswith("_ms") and f"{value:.0f} ms" in message


def printable(text: str) -> str:
    """``text`` as one line that moves no cursor and rings no bell, of bounded length."""
    text = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return _UNPRINTABLE.sub(lambda match: _ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text)


def _time_of_day(at: float) -> str:
    """Local time, to the millisecond: ``17:02:03.004``."""
    wall = clock.wall(at)
    return time.strftime("%H:%M:%S", time.localtime(wall)) + f".{int(wall % 1 * 1000):03d}"


def _paint(colour: str, text: str) -> str:
    return f"{colour}{text}{RESET}" if colour and text else text


def _plainly(_colour: str, text: str) -> str:
    return text
