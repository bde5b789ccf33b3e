"""A configuration file read anew for a daemon that runs by an earlier reading of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Literal

import anyio

from supervisor.config_reader import PATIENCE, Reading, read_apart
from supervisor.errors import ConfigError, SupervisorBug
from supervisor.plan import DaemonPlan

_SAID = 1000


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no new plan: ``why``, in one line, and each mistake of the file with its line.

    ``fault``: what is to blame; "host": it is short of something, or slow.
    """

    why: str
    mistakes: tuple[str, ...] = ()
    fault: Literal["file", "host", "rankd"] = "file"


async def reread(
    path: str, now: DaemonPlan, workers: Mapping[str, int] | None = None, within: float = PATIENCE
) -> DaemonPlan | Refused:
    """What the file at ``path`` says now, for a daemon that goes by ``now``; the loop turns meanwhile.

    A file that names no run id means this run, and not one by another chance; the same of ``node_id``. ``workers``: how
    many some of its groups are to have, whatever it says.
    """
    if not path:
        return Refused("this daemon was not started from a configuration file")
    try:
        reading = read_apart(path, now.node_id, now.run_id, workers)
    except OSError as error:
        return Refused(f"no process to read {path} can be started: {error.strerror}", fault="host")
    try:
        with anyio.fail_after(within):
            said = await _said(reading)
    except TimeoutError:
        reading.let_go()
        return Refused(f"reading {path} has taken longer than {within:g} s", fault="host")
    except BaseException:
        reading.let_go()
        raise
    try:
        with reading:
            return reading.plan_in(*said)
    except ConfigError as error:
        mistakes = tuple(map(str, error.mistakes))
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        return Refused(mistakes[0] + more, mistakes)
    except SupervisorBug as error:
        return Refused(" ".join(str(error).split())[:_SAID], fault="rankd")


async def _said(reading: Reading) -> tuple[bytes, bytes]:
    """All that the child says on stdout and stderr, up to its end."""
    out, err = reading.streams
    said, complaints = await asyncio.gather(_to_the_end(out), _to_the_end(err))
    return said, complaints


async def _to_the_end(pipe: IO[bytes]) -> bytes:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        return await reader.read()
    finally:
        transport.close()
