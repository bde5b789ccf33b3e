"""``rankd status``: how every group stands, why, what happens next and when; of one group, each of its workers."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from supervisor.cli import asked
from supervisor.control.client import Daemon, Stream
from supervisor.control.table import table
from supervisor.errors import OK

HELP = "how every group stands, why, and what happens next"

TOGETHER = 0.2
"""Seconds for which what comes together is drawn together."""

HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
"""Drawn over what was there, line by line: a screen that is cleared first flickers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP", nargs="?", help="this one alone, with each of its workers")
    parser.add_argument("--json", action="store_true", help="what /status says, with the folders of logs")
    parser.add_argument("--watch", action="store_true", help="again whenever something has changed")
    asked.add_socket(parser)


def main(arguments: argparse.Namespace) -> int:
    daemon = asked.daemon(arguments)
    status = _asked(daemon, arguments)
    if not arguments.watch:
        asked.write(_shown(status, arguments))
        return OK
    with Stream(daemon, status["seq"]) as news:
        while True:
            _watch(status, news, arguments)
            status = _asked(daemon, arguments)


def _asked(daemon: Daemon, arguments: argparse.Namespace) -> dict[str, Any]:
    status = daemon.status()
    if arguments.group:
        asked.group_of(status, arguments.group)
    for name, view in status["groups"].items():
        if view["shared"] and arguments.group in (None, name):
            view["peers"] = daemon.hosts_of(name)
    return status


def _watch(status: dict[str, Any], news: Stream, arguments: argparse.Namespace) -> None:
    """Draw until something has happened: on a terminal each second anew, for what is said of time. Only we count it."""
    began_at = time.monotonic()
    terminal = os.isatty(asked.STDOUT) and not arguments.json
    while True:
        shown = _shown(status, arguments, time.monotonic() - began_at)
        asked.write(_over_the_last(shown) if terminal else shown)
        if news.read(time.monotonic() + 1.0 if terminal else None):
            together = time.monotonic() + TOGETHER
            while news.read(together):
                pass
            return
        if time.monotonic() - began_at >= asked.ASK_EVERY:
            return


def _over_the_last(text: str) -> str:
    """As much of it as the terminal has lines for, in place of what is there."""
    lines, room = text.splitlines(), os.get_terminal_size(asked.STDOUT).lines - 1
    if 0 < room < len(lines):
        lines[room - 1 :] = [f"... {len(lines) - room + 1} more lines"]
    return HOME + "".join(f"{line}{REST_OF_LINE}\n" for line in lines) + REST_OF_SCREEN


def _shown(status: dict[str, Any], arguments: argparse.Namespace, later: float = 0.0) -> str:
    if arguments.json:
        if arguments.group:
            status = status | {"groups": {arguments.group: status["groups"][arguments.group]}}
        return json.dumps(status, ensure_ascii=False) + "\n"
    lines = table(
        status,
        width=os.get_terminal_size(asked.STDOUT).columns or None if os.isatty(asked.STDOUT) else None,
        log_of=lambda group, attempt, rank: log_of(f"{status['logs'][group]}/attempt_{attempt}/{rank}"),
        group=arguments.group or "",
        later=later,
        colour=asked.wants_colour(),
    )
    return "".join(f"{line}\n" for line in lines)


def log_of(directory: str) -> str:
    """The log of a worker that has most to say about a failure, of those that are there; else where they would be."""
    for name in ("stderr.log", "stdout.log"):
        try:
            if os.stat(f"{directory}/{name}").st_size:
                return f"{directory}/{name}"
        except OSError:
            continue
    return directory
