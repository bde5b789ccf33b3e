"""Run the daemon in the foreground until its groups are done or a signal stops it."""

from __future__ import annotations

import argparse
import os
import signal

HELP = "run the daemon in the foreground (systemd's ExecStart)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.toml", help="the configuration")


def main(arguments: argparse.Namespace) -> int:
    # There is nothing to stop yet: whoever wants us to end may have it at once, and a stop is a daemon's success.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _leave)
    from supervisor.config_reader import read_apart  # noqa: PLC0415 - see below

    # The configuration is validated by a child while we import what we need for ourselves: the two take about as long.
    reading = read_apart(arguments.config)
    from supervisor import daemon  # noqa: PLC0415

    return daemon.run(reading.result(), arguments.config)


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)
