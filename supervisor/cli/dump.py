"""``rankd dump GROUP[:RANK]``: what the workers do right now, as it is written down before one that hangs is ended."""

from __future__ import annotations

import argparse
import json

from supervisor.cli import asked
from supervisor.control.files import reading
from supervisor.errors import OK

HELP = "write down and show what the workers of a group do right now: stacks, sections, last lines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP[:RANK]", type=asked.group_and_rank)
    parser.add_argument("--json", action="store_true", help="where it is written, and nothing of what")
    asked.add_socket(parser)


def main(arguments: argparse.Namespace) -> int:
    name, rank = arguments.group
    said = asked.daemon(arguments).ask_of(name, "dump", rank=rank)
    if arguments.json:
        asked.write(json.dumps(said) + "\n")
        return OK
    with reading(said["path"]) as file:
        asked.write_bytes(file.read())
    asked.write(f"\n{said['path']}\n")
    return OK
