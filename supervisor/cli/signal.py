"""``rankd signal GROUP[:RANK] SIGNAL``: to the processes of workers themselves, not to their children."""

from __future__ import annotations

import argparse

from supervisor.cli import asked
from supervisor.core.events import signal_name
from supervisor.errors import OK

HELP = "send a signal to the workers of a group, or to one of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP[:RANK]", type=asked.group_and_rank)
    parser.add_argument("signal", metavar="SIGNAL", type=_number, help="a name (SIGUSR1, usr1) or a number")
    asked.add_socket(parser)


def main(arguments: argparse.Namespace) -> int:
    name, rank = arguments.group
    said = asked.daemon(arguments).ask_of(name, "signal", signal=arguments.signal, rank=rank)
    ranks = ", ".join(map(str, said["ranks"]))
    asked.write(
        f"group {name}: {signal_name(arguments.signal)} to rank{'s' if len(said['ranks']) > 1 else ''} {ranks}\n"
    )
    return OK


def _number(text: str) -> int:
    from supervisor import values  # noqa: PLC0415 - beside our own name's module

    try:
        return values.signal_number(int(text) if text.isdecimal() else text.upper())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
