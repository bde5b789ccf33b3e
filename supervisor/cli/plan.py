"""``rankd plan CONFIG.toml``: what a reload with that file would do to the running daemon. Nothing is done."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from supervisor.cli import asked
from supervisor.control.client import Refused
from supervisor.control.table import columns
from supervisor.errors import CONFIG, OK

HELP = "say what a reload with a configuration file would do to the running daemon"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of words")
    asked.add_socket(parser)


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0; 1 if a reload would be refused; 78 for a wrong file, with its mistakes on stderr, one a line."""
    try:
        plan = asked.daemon(arguments).plan(os.path.abspath(arguments.config))
    except Refused as refused:
        if refused.exit_code != CONFIG or not refused.mistakes:
            raise
        sys.stderr.write("".join(f"{mistake}\n" for mistake in refused.mistakes))
        return CONFIG
    asked.write(json.dumps(plan) + "\n" if arguments.json else "".join(f"{line}\n" for line in _lines(plan)))
    return 1 if plan["refused"] else OK


def _lines(plan: dict[str, Any]) -> Iterator[str]:
    rows = [("GROUP", "WHAT", "BECAUSE OF")]
    rows += [(name, group["what"], ", ".join(group["keys"])) for name, group in plan["groups"].items()]
    yield from (line.rstrip() for line in columns(rows))
    if plan["applied"]:
        yield f"at once: {', '.join(plan['applied'])}"
    if plan["refused"]:
        yield f"a reload would be refused: {plan['refused']}"
