"""``rankd undrain``: end what rankd drain has begun."""

from __future__ import annotations

import argparse

from supervisor.cli import asked

HELP = "end what rankd drain has begun"
add_arguments = asked.add_socket


def main(arguments: argparse.Namespace) -> int:
    return asked.simply("undrain", arguments, "draining no more")
