"""``rankd`` and ``python -m supervisor``: find the verb, import only what it needs, turn errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from supervisor import __version__
from supervisor.errors import USAGE, ConfigError, RankdError

VERBS = ("run", "check", "schema")
"""Each is a module of ``supervisor.cli`` with HELP, ``add_arguments(parser)`` and ``main(arguments) -> exit code``."""


class Parser(argparse.ArgumentParser):
    """argparse, but wrong usage exits with sysexits' EX_USAGE."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The whole command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(prog="rankd", description="Starts, watches, restarts and stops groups of ranked workers.")
    parser.add_argument("--version", action="version", version=f"rankd {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    # Only the verb that was asked for is imported; with none (or --help) all are, for their lines of help.
    asked = [word for word in words[:1] if word in VERBS] or VERBS
    for name in asked:
        module = importlib.import_module(f"supervisor.cli.{name}")
        verb = verbs.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(verb)
        verb.set_defaults(main=module.main)
    arguments = parser.parse_args(words)
    try:
        return int(arguments.main(arguments))
    except RankdError as error:
        # A mistake in a file begins with file and line, as editors want it.
        sys.stderr.write(f"{error}\n" if isinstance(error, ConfigError) else f"rankd: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
