"""``rankd restart GROUP[:RANK]``: stop a group or one of its ranks and start it again, with its whole budget."""

from __future__ import annotations

import argparse

from supervisor.cli import asked

HELP = "stop a group, or one rank of a service, and start it again, with its whole budget of restarts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asked.add_lifecycle(parser, of_a_rank=True)


def main(arguments: argparse.Namespace) -> int:
    return asked.lifecycle("restart", arguments)
