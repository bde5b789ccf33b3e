"""``rankd failures GROUP``: who has failed in this run of a group, why, and where its logs are."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from typing import Any

from supervisor.cli import asked
from supervisor.control.files import Unreadable, reading
from supervisor.control.sentence import at
from supervisor.errors import OK
from supervisor.report.prose import BOLD, DIM, RESET, printable

HELP = "who has failed in a group, why, and where the logs are"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP", type=asked.whole_group)
    parser.add_argument("--json", action="store_true", help="whole records, one a line")
    asked.add_socket(parser)


def main(arguments: argparse.Namespace) -> int:
    status = asked.daemon(arguments).status()
    asked.group_of(status, arguments.group)
    failures = _failures(status["logs"][arguments.group])
    if arguments.json:
        asked.write("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in failures))
    elif not failures:
        asked.write(f"nothing has failed in group {arguments.group}\n")
    else:
        asked.write("".join(_shown(one, colour=asked.wants_colour()) for one in failures))
    return OK


def _failures(directory: str) -> list[dict[str, Any]]:
    """Oldest first. Raises ``Unreadable``; a line that is cut off is passed over."""
    found = []
    for name in ("failures.jsonl.1", "failures.jsonl"):
        try:
            with reading(f"{directory}/{name}") as file:
                lines = file.read().splitlines()
        except Unreadable as error:
            if error.is_missing:
                continue
            raise
        for line in lines:
            with suppress(ValueError):
                found.append(json.loads(line))
    return found


def _shown(failure: dict[str, Any], *, colour: bool) -> str:
    cause = "" if failure["root_cause"] else " (after another)"
    first = (
        f"{at(failure['timestamp'])} rank {failure['rank']} {failure['reason']}, attempt {failure['attempt']}{cause}"
    )
    bold, dim, reset = (BOLD, DIM, RESET) if colour else ("", "", "")
    text = f"{bold if not cause else ''}{printable(first)}{reset if not cause else ''}\n"
    words = failure.get("error") or str(failure.get("stderr_tail", "")).rstrip().rpartition("\n")[2]
    if words:
        text += f"    {printable(words)}\n"
    return f"{text}    {dim}{printable(failure['directory'])}{reset}\n"
