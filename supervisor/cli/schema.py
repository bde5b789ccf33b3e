"""``rankd schema``: the JSON Schema of the configuration, for editors (``#:schema`` in a TOML file's first line)."""

from __future__ import annotations

import argparse
import json
import sys

from supervisor import errors

HELP = "print the JSON Schema of the configuration file"


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """It has none."""


def main(_arguments: argparse.Namespace) -> int:
    from supervisor.config import schema  # noqa: PLC0415 - pydantic takes its time

    sys.stdout.write(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
    return errors.OK
