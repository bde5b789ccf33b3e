"""The error file as torch writes it (torch.distributed.elastic.multiprocessing.errors.error_handler)."""

from __future__ import annotations

import os
from typing import Any


def contents(message: str, callstack: str, timestamp: int, error_code: int = 0) -> dict[str, Any]:
    """``message`` is the exception in a line, ``callstack`` its traceback, ``timestamp`` seconds since the epoch.

    ``error_code`` is what a launcher adds for a worker that failed: its exit code, or a signal as a negative number.
    """
    data: dict[str, Any] = {
        "message": message,
        "extraInfo": {"py_callstack": callstack, "timestamp": str(timestamp)},
    }
    if error_code:
        data["errorCode"] = error_code
    return {"message": data}


def write(path: str, text: str) -> None:
    """At once, so that whoever is killed meanwhile leaves all of it or nothing. Raises ``OSError``."""
    rest = text.encode()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    finally:
        os.close(file)
