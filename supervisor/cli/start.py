"""``rankd start GROUP``: start a group that is stopped, has failed or has succeeded, or that waits to restart."""

from __future__ import annotations

import argparse

from supervisor.cli import asked

HELP = "start a group that is stopped, has failed or has succeeded, or that waits to restart"
add_arguments = asked.add_lifecycle


def main(arguments: argparse.Namespace) -> int:
    return asked.lifecycle("start", arguments)
