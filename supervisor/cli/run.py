"""Run the daemon in the foreground until its groups are done or a signal stops it."""

from __future__ import annotations

import argparse

HELP = "run the daemon in the foreground (systemd's ExecStart)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.toml", help="the configuration")


def main(arguments: argparse.Namespace) -> int:
    from supervisor.config_reader import read_apart  # noqa: PLC0415 - see below

    # The configuration is validated by a child while we import what we need for ourselves: the two take about as long.
    reading = read_apart(arguments.config)
    from supervisor import daemon  # noqa: PLC0415

    return daemon.run(reading.result())
