"""``rankd logs GROUP[:RANK]``: what the workers have written, from the log files of their last start."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

from supervisor.cli import asked
from supervisor.control.client import Record, Stream, Unreachable
from supervisor.control.files import Followed, Unreadable
from supervisor.errors import OK, RankdError

HELP = "what the workers of a group, or one of them, have written"

LOOK_EVERY = 0.2
"""Seconds between two looks at files that are followed. It is we who look: the daemon has no part in it."""


class NoLogs(RankdError):
    """Nothing is there to be read."""

    exit_code = 1


class Log(NamedTuple):
    """A worker's file. ``name`` stands before its lines where there are several."""

    rank: int
    stream: str
    path: str

    @property
    def name(self) -> bytes:
        return f"{self.rank} {'err' if self.stream == 'stderr' else 'out'}| ".encode()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP[:RANK]", type=asked.group_and_rank)
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what they write, restarts included")
    parser.add_argument("-n", "--lines", metavar="N", type=_count, default=10, help="the last N of each (default: 10)")
    parser.add_argument("--stream", choices=("stdout", "stderr"), help="this one alone")
    asked.add_socket(parser)


def main(arguments: argparse.Namespace) -> int:
    daemon = asked.daemon(arguments)
    status = daemon.status()
    followed: dict[Log, Followed] = {}
    with ExitStack() as stack:
        stack.callback(_close, followed)
        logs = _logs(status, arguments)
        refused = _open(followed, logs, arguments.lines)
        if not followed and not arguments.follow:
            why = "nothing has started, or logs.redirects and logs.tee keep none"
            raise refused or NoLogs(f"group {arguments.group[0]} has no log files: {why}")
        several = len(logs) > 1
        if not arguments.follow:
            _write(followed, several, over=True)
            return OK
        with Stream(daemon, status["seq"]) as news:
            while True:
                _write(followed, several)
                try:
                    records = news.read(time.monotonic() + LOOK_EVERY)
                except Unreachable:
                    _write(followed, several, over=True)
                    raise
                if any(_starts(record, arguments) for record in records):
                    _turn_to(followed, _logs(daemon.status(), arguments), several)


def _starts(record: Record, arguments: argparse.Namespace) -> bool:
    """Whether there are other files from here on."""
    started = record["event"] == "worker.started" and record["group"] == arguments.group[0]
    return started or record["event"] in ("lost", "daemon.reloaded")


def _turn_to(followed: dict[Log, Followed], logs: list[Log], several: bool) -> None:
    """From earlier starts of the workers to those that are now, once the last line of the earlier has been written."""
    earlier = {log: followed.pop(log) for log in list(followed) if log not in logs}
    _write(earlier, several, over=True)
    _close(earlier)
    _open(followed, [log for log in logs if log not in followed], None)


def _close(followed: dict[Log, Followed]) -> None:
    for file in followed.values():
        file.close()


def _open(followed: dict[Log, Followed], logs: list[Log], lines: int | None) -> Unreadable | None:
    """Open what is there; returns why another could not be."""
    refused = None
    for log in logs:
        try:
            followed[log] = Followed(log.path, lines)
        except Unreadable as error:
            if not error.is_missing:
                refused = error
    return refused


def _logs(status: dict[str, Any], arguments: argparse.Namespace) -> list[Log]:
    """The files that the last starts of the workers meant have, or would have."""
    name, rank = arguments.group
    workers = asked.group_of(status, name)["workers"]
    if rank is not None:
        workers = [worker for worker in workers if worker["rank"] == rank]
        if not workers:
            raise asked.NoSuchGroup(f"group {name} has no rank {rank} on this host")
    streams = (arguments.stream,) if arguments.stream else ("stdout", "stderr")
    return [
        Log(one["rank"], stream, f"{status['logs'][name]}/attempt_{one['attempt']}/{one['local_rank']}/{stream}.log")
        for one in workers
        if one["attempt"] >= 0
        for stream in streams
    ]


def _write(followed: dict[Log, Followed], several: bool, *, over: bool = False) -> None:
    for log, file in followed.items():
        before = log.name if several else b""
        asked.write_bytes(b"".join(before + line + b"\n" for line in file.lines(over=over)))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)
