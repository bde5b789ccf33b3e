"""``rankd doctor``: whether this host is one on which rankd does well, check by check."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.doctor import Finding

HELP = "check this host: kernel, cgroups, limits, systemd unit, journal, ports"

_COLOURS = {"ok": "32", "warning": "33", "failed": "1;31"}
_WIDEST = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.toml", nargs="?", help="whether this configuration fits the host")
    parser.add_argument(
        "--unit", metavar="NAME", help="the systemd service that runs it (default: rankd.service, if it does)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0 when nothing failed (warnings or not), else 1."""
    from supervisor.doctor import examine  # noqa: PLC0415 - see __main__

    findings = list(examine(arguments.config, arguments.unit, os.environ))
    failed = any(finding.verdict == "failed" for finding in findings)
    if arguments.json:
        sys.stdout.write(json.dumps({"ok": not failed, "checks": [finding._asdict() for finding in findings]}) + "\n")
    else:
        tty = sys.stdout.isatty()
        width = min(shutil.get_terminal_size().columns, _WIDEST) if tty else 0
        sys.stdout.write(table(findings, width, colour=tty and "NO_COLOR" not in os.environ))
    return 1 if failed else 0


def table(findings: Sequence[Finding], width: int, *, colour: bool) -> str:
    """A line a check, with what to do below it, and the sum at the end. ``width`` 0: lines are as long as they are."""
    names = max(len(finding.check) for finding in findings)
    indent = " " * (len("warning  ") + names + 2)
    lines = []
    for check, verdict, found, advice in findings:
        mark = f"{verdict:7}"
        if colour:
            mark = f"\033[{_COLOURS[verdict]}m{mark}\033[0m"
        said = _wrapped(found, indent, width)
        lines.append(f"{mark}  {check:{names}}  {said[0]}")
        lines += [indent + line for line in said[1:]]
        lines += [indent + line for line in _wrapped(f"-> {advice}", indent, width)] if advice else []
    return "\n".join([*lines, "", _sum(findings), ""])


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    if width < len(indent) + 20:
        return [text]
    return textwrap.wrap(text, width - len(indent), break_long_words=False, break_on_hyphens=False)


def _sum(findings: Sequence[Finding]) -> str:
    """``17 checks: 1 failed (open files), 2 warnings (containment, stop)``: what a tired reader needs, last."""
    parts = []
    for verdict, word in (("failed", "failed"), ("warning", "to watch")):
        if names := [finding.check for finding in findings if finding.verdict == verdict]:
            parts.append(f"{len(names)} {word} ({', '.join(names)})")
    return f"{len(findings)} checks: {'; '.join(parts) or 'all is well'}"
