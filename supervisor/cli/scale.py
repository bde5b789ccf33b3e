"""``rankd scale GROUP N``: so many workers from now on, until the configuration is read again."""

from __future__ import annotations

import argparse

from supervisor.cli import asked

HELP = "have a group go on with N workers, until the configuration is read again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asked.add_lifecycle(parser)
    parser.add_argument("workers", metavar="N", type=_number)


def main(arguments: argparse.Namespace) -> int:
    return asked.lifecycle("scale", arguments, workers=arguments.workers)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers: it is one from 1 on")
    return int(text)
