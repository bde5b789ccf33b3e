"""``rankd restart GROUP``: stop a group and start it again, with its whole budget of restarts."""

from __future__ import annotations

import argparse

from supervisor.cli import asked

HELP = "stop a group and start it again, with its whole budget of restarts"
add_arguments = asked.add_lifecycle


def main(arguments: argparse.Namespace) -> int:
    return asked.lifecycle("restart", arguments)
