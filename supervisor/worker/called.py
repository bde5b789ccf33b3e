"""A function of the library's caller as a worker: it comes pickled through stdin, from our parent, and its return value
goes back so through another pipe that we were born with.

Through stdin come a line of JSON and then so many bytes as it says: see ``supervisor.agent.calls``.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT = 1 << 28
"""Bytes that a pickled return value may have."""

LENGTH = 8
"""Bytes before a pickled return value that say how many follow, little endian."""


def main() -> None:
    """Call the function; raises what it raises. That includes a return value that cannot be sent."""
    from supervisor.worker.recording import record  # noqa: PLC0415 - see supervisor.worker.call

    head, data = _read()
    os.set_inheritable(head["returns"], False)
    record(_call)(head, data)


def _read() -> tuple[dict[str, Any], bytes]:
    """All that is for us; stdin is empty afterwards, as every worker's is."""
    with os.fdopen(os.dup(0), "rb") as pipe:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        line = pipe.readline()
        head = json.loads(line) if line else {"length": 1}
        data = pipe.read(head["length"])
    if len(data) < head["length"]:
        sys.exit("supervisor.worker: whoever has started this worker is gone")
    return head, data


def _call(head: dict[str, Any], data: bytes) -> None:
    import pickle  # noqa: PLC0415

    sys.path[:] = head["path"]
    sys.argv[:] = head["argv"]
    if head["main"]:
        from multiprocessing import spawn  # noqa: PLC0415 - only for what the caller's own script has defined

        spawn.prepare(head["main"])
    function, args = pickle.loads(data)  # noqa: S301 - our own parent's, through a pipe that nobody else has
    returned = pickle.dumps(function(*args), pickle.HIGHEST_PROTOCOL)
    if len(returned) > LIMIT:
        raise ValueError(f"the return value has {len(returned)} bytes; at most {LIMIT} can be returned (use a file)")
    rest = memoryview(len(returned).to_bytes(LENGTH, "little") + returned)
    while rest:
        rest = rest[os.write(head["returns"], rest) :]
