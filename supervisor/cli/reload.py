"""``rankd reload``: go by the configuration file as it is now, or say what is wrong with it."""

from __future__ import annotations

import argparse

from supervisor.cli import asked

HELP = "go by the configuration file as it is now, or say what is wrong with it"
add_arguments = asked.add_socket


def main(arguments: argparse.Namespace) -> int:
    return asked.simply("reload", arguments, "reloaded")
