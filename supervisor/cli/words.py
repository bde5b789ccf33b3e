"""The words of the command line: every verb, and what parses it."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence

from supervisor import __version__
from supervisor.errors import USAGE

VERBS = (
    "run", "launch", "status", "start", "stop", "restart", "scale", "drain", "undrain", "reload", "signal",
    "dump", "plan", "logs", "events", "failures", "check", "schema", "doctor", "completion",
)  # fmt: skip
"""Each is a module of ``supervisor.cli`` with HELP, ``add_arguments(parser)`` and ``main(arguments) -> exit code``."""


class Parser(argparse.ArgumentParser):
    """argparse, but wrong usage exits with sysexits' EX_USAGE, unless ``wrong_usage`` is another exit code."""

    wrong_usage = USAGE

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(self.wrong_usage, f"{self.prog}: {message}\n")


def parser_of(names: Sequence[str], words: Sequence[str] = ()) -> tuple[Parser, Mapping[str, Parser]]:
    """The command line with these verbs, and what parses each of them; ``words`` are what is to be parsed."""
    parser = Parser(prog="rankd", description="Starts, watches, restarts and stops groups of ranked workers.")
    parser.add_argument("--version", action="version", version=f"rankd {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in names:
        module = importlib.import_module(f"supervisor.cli.{name}")
        verb = verbs.add_parser(name, help=module.HELP, description=module.HELP.capitalize() + ".")
        if hasattr(module, "wrong_usage"):
            verb.wrong_usage = module.wrong_usage(words)
        module.add_arguments(verb)
        verb.set_defaults(main=module.main)
    return parser, verbs.choices
