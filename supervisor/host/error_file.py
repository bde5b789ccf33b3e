"""Error files of workers that failed: read without trust, and handed on when somebody supervises us in turn.

Three shapes are legal (torch.distributed.elastic.multiprocessing.errors, ``ProcessFailure``): ``message`` is an object
with ``message`` and ``extraInfo`` (``py_callstack``, ``timestamp``), or it is a text beside a ``timestamp`` that is a
number or a text.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import Any

from supervisor.core.messages import ErrorReport
from supervisor.worker.error_file import contents, write

LIMIT = 1 << 20
"""Largest error file in bytes that is read."""

MESSAGE_LIMIT = 2000
TRACEBACK_LIMIT = 12000
"""Characters that are kept; the record of a failure has to fit into 32 KiB."""

LATEST = 1 << 40
"""Seconds since the epoch beyond which a timestamp is none."""


class Unreadable(Exception):
    """There is something, but no error file that could be believed; carries why."""


def read(path: str) -> ErrorReport | None:
    """What the worker has left at ``path``; None when there is nothing. What is wrong with it is its ``note``.

    The directory is the worker's own: whatever is there, this neither raises nor waits nor follows a link.
    """
    if not path:
        return None
    try:
        data = load(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return ErrorReport(note=f"the error file cannot be read: {error.strerror}")
    except Unreadable as why:
        return ErrorReport(note=f"the error file is not used: {why}")
    return _report(data)


def hand_on(path: str, ours: str, otherwise: ErrorReport, error_code: int) -> None:
    """The error file at ``path`` is ours as well, with ``error_code`` as torch's launcher puts it there.

    When it is missing or none that torch would accept, ``otherwise`` is written. Raises ``OSError``.
    """
    callstack = otherwise.traceback or otherwise.message  # torch's report shows the one alone, empty or not
    text = json.dumps(contents(otherwise.message, callstack, otherwise.timestamp or 0, error_code))
    with suppress(OSError, Unreadable, RecursionError):
        found = load(path)
        if not _report(found).note:
            if isinstance(found["message"], dict):
                found["message"]["errorCode"] = error_code
            text = json.dumps(found)
    write(ours, text)


def load(path: str) -> dict[str, Any]:
    """The JSON object in that file. Raises ``OSError`` or ``Unreadable``."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise Unreadable("it is not a regular file")
        text = bytearray()
        while len(text) <= LIMIT and (block := os.read(file, min(1 << 16, LIMIT + 1 - len(text)))):
            text += block
    finally:
        os.close(file)
    if len(text) > LIMIT:
        raise Unreadable(f"it has more than {LIMIT} bytes")
    try:
        data = json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise Unreadable("it is not UTF-8") from error
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, and the int of too many digits
        raise Unreadable("it is empty" if not text else f"it is no JSON: {error}"[:200]) from error
    if not isinstance(data, dict):
        raise Unreadable("it is no JSON object")
    return data


def _report(data: dict[str, Any]) -> ErrorReport:
    """As much of it as is of the right type, and a note on the first thing that is not."""
    message = data.get("message")
    if isinstance(message, str):
        timestamp = _timestamp(data.get("timestamp", 0))
        note = "" if timestamp is not None else "its timestamp is none"
        return ErrorReport(_cut(message, MESSAGE_LIMIT), timestamp=timestamp or None, note=note)
    if not isinstance(message, dict):
        return ErrorReport(note="the error file has no message")
    words, info = message.get("message"), message.get("extraInfo")
    known = info if isinstance(info, dict) else {}
    callstack, timestamp = known.get("py_callstack"), _timestamp(known.get("timestamp"))
    wrong = [
        what
        for what, right in (
            ("message", isinstance(words, str)),
            ("py_callstack", callstack is None or isinstance(callstack, str)),
            ("timestamp", timestamp is not None),
        )
        if not right
    ]
    return ErrorReport(
        _cut(words, MESSAGE_LIMIT) if isinstance(words, str) else "",
        _cut(callstack, TRACEBACK_LIMIT) if isinstance(callstack, str) else "",
        timestamp,
        f"the error file's {wrong[0]} is missing or none" if wrong else "",
    )


def _timestamp(value: object) -> int | None:
    """Seconds since the epoch from a number or its text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = int(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < LATEST else None


def _cut(text: str, limit: int) -> str:
    """The beginning and the end of a long text; the end is where an exception says what it is."""
    if len(text) <= limit:
        return text
    head = limit // 3
    return f"{text[:head]}\n... {len(text) - limit} characters cut ...\n{text[head - limit :]}"
