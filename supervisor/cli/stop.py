"""``rankd stop GROUP``: stop a group; it stays stopped until somebody starts it."""

from __future__ import annotations

import argparse

from supervisor.cli import asked

HELP = "stop a group; it stays stopped until somebody starts it"
add_arguments = asked.add_lifecycle


def main(arguments: argparse.Namespace) -> int:
    return asked.lifecycle("stop", arguments)
