"""``rankd events``: the records that the daemon has told lately, and with ``-f`` those that it tells from now on."""

from __future__ import annotations

import argparse
import json

from supervisor.cli import asked
from supervisor.control.client import Record, Stream
from supervisor.control.sentence import sentence
from supervisor.errors import OK

HELP = "what has happened lately, and with -f what happens"

LAST = 10
"""Records that come before those to follow, unless --since says otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")
    parser.add_argument("--json", action="store_true", help="whole records, one a line")
    parser.add_argument("--since", metavar="SEQ", type=int, help="those after the record of this number")
    asked.add_socket(parser)


def main(arguments: argparse.Namespace) -> int:
    daemon = asked.daemon(arguments)
    last = daemon.status()["seq"]
    since = max(0, last - LAST if arguments.follow else 0) if arguments.since is None else max(0, arguments.since)
    if since >= last and not arguments.follow:
        return OK
    colour = asked.wants_colour()
    with Stream(daemon, since) as stream:
        while True:
            records = stream.read()
            asked.write("".join(_line(record, arguments.json, colour) for record in records))
            if not arguments.follow and any(record.get("seq", 0) >= last for record in records):
                return OK


def _line(record: Record, as_json: bool, colour: bool) -> str:
    return (json.dumps(record, ensure_ascii=False) if as_json else sentence(record, colour=colour)) + "\n"
