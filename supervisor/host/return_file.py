"""Return values of functions that ran as workers, read without trust: the file is the worker's own."""

from __future__ import annotations

import json

from supervisor.core.messages import Returned
from supervisor.host.error_file import Unreadable, load
from supervisor.worker.call import LIMIT

NOTE_LIMIT = 1000


def read(path: str) -> Returned:
    """What the worker has left at ``path`` (see ``supervisor.worker.call``). Neither raises nor waits."""
    try:
        data = load(path)
        if "value" not in data:
            note = data.get("note")
            return Returned(note=note[:NOTE_LIMIT] if note and isinstance(note, str) else "the file has no value")
        # Written anew: what Python reads as JSON may have numbers in it that JSON has not.
        text = json.dumps(data["value"], allow_nan=False, separators=(",", ":"))
    except FileNotFoundError:
        return Returned(note="it has not written a return value")
    except OSError as error:
        return Returned(note=f"the return value cannot be read: {error.strerror}")
    except (Unreadable, ValueError, RecursionError) as why:
        return Returned(note=f"the return value is not used: {why}")
    if len(text) > LIMIT:
        return Returned(note=f"the return value has more than {LIMIT} bytes")
    return Returned(text)
