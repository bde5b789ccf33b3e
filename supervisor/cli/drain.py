"""``rankd drain``: have /readyz say no, so that clients go elsewhere; everything runs on."""

from __future__ import annotations

import argparse

from supervisor.cli import asked

HELP = "have /readyz say no, so that clients go elsewhere; everything runs on"
add_arguments = asked.add_socket


def main(arguments: argparse.Namespace) -> int:
    return asked.simply("drain", arguments, "draining: rankd undrain ends it")
