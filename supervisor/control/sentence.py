"""A record, as ``/events`` and ``failures.jsonl`` have it, as a line for people: when, how bad, who, and what."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from supervisor.report.prose import CYAN, DIM, LEVELS, RED, RESET, YELLOW, printable

_COLOURS = {"error": RED, "warning": YELLOW, "debug": DIM}


def sentence(record: Mapping[str, Any], *, colour: bool = False) -> str:
    """``06:29:01.123 ERROR trainer/3  rank 3 exited with code 3``, in local time."""
    if record["event"] == "lost":
        number = record["lost"]
        return f"... {number if number is not None else 'some'} records are missing here ..."
    shade = _COLOURS.get(record["level"], "")
    who = _who(record)
    parts = [
        _painted(at(record["timestamp"]), DIM if colour else ""),
        _painted(LEVELS[record["level"]], shade if colour else ""),
        _painted(printable(who).ljust(12), CYAN if colour else ""),
        _painted(printable(record["message"]), shade if colour else ""),
    ]
    return " ".join(parts)


def _who(record: Mapping[str, Any]) -> str:
    group, rank = record.get("group", record["service"]), record.get("rank")
    return str(group) if rank is None else f"{group}/{rank}"


def at(timestamp: str) -> str:
    """A record's date (RFC 3339) as local time of day, to the millisecond."""
    date = datetime.fromisoformat(timestamp)
    return time.strftime("%H:%M:%S", time.localtime(date.timestamp())) + f".{date.microsecond // 1000:03d}"


def _painted(text: str, colour: str) -> str:
    return f"{colour}{text}{RESET}" if colour and text else text
