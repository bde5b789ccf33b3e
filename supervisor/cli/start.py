"""``rankd start GROUP[:RANK]``: start what is stopped, has failed or has succeeded, or waits to restart."""

from __future__ import annotations

import argparse

from supervisor.cli import asked

HELP = "start a group, or one rank of a service, that is stopped, failed or succeeded, or that waits to restart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asked.add_lifecycle(parser, of_a_rank=True)


def main(arguments: argparse.Namespace) -> int:
    return asked.lifecycle("start", arguments)
