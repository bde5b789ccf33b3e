"""``rankd check``: whether a configuration is right, and if not, everything that is wrong with it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor import errors
from supervisor.host import cgroup

if TYPE_CHECKING:
    from supervisor.plan import DaemonPlan

HELP = "say everything that is wrong with a configuration file, or that it is right"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of words")


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0 or 78; mistakes on stderr, one a line."""
    from supervisor.config import load  # noqa: PLC0415 - pydantic takes its time

    try:
        plan = load(arguments.config, os.environ)
    except errors.ConfigError as error:
        if arguments.json:
            mistakes = [
                {"file": one.file, "line": one.line, "key": one.key, "what": one.what} for one in error.mistakes
            ]
            sys.stdout.write(json.dumps({"ok": False, "mistakes": mistakes}) + "\n")
        else:
            sys.stderr.write(f"{error}\n")
        return error.exit_code
    if arguments.json:
        groups = {group.name: {"workers": group.workers} for group in plan.groups.values()}
        sys.stdout.write(json.dumps({"ok": True, "groups": groups, "listen": plan.listen}) + "\n")
    else:
        sys.stdout.write(f"{arguments.config}: ok: {in_words(plan)}\n")
        for note in notes(plan):
            sys.stdout.write(f"note: {note}\n")
    return errors.OK


def in_words(plan: DaemonPlan) -> str:
    """``1 group (trainer: 4 workers), health on 127.0.0.1:8080``."""
    groups = ", ".join(f"{group.name}: {_count(group.workers, 'worker')}" for group in plan.groups.values())
    health = f"health on {', '.join(plan.listen)}" if plan.listen else "no health listener"
    return f"{_count(len(plan.groups), 'group')} ({groups}), {health}"


def notes(plan: DaemonPlan) -> Iterator[str]:
    """What is right, but would not be had by a daemon started from here."""
    found = cgroup.available()
    controllers = found.controllers if isinstance(found, cgroup.Delegated) else frozenset[str]()
    for group in plan.groups.values():
        if keys := cgroup.limits_without(group.resources, controllers):
            yield (
                f"{group.name}: {', '.join(keys)}: limited only where cgroup v2 is delegated to rankd, as by "
                f"rankd.service; started from here: {cgroup.describe(found)}"
            )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
