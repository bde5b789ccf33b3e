"""``rankd`` and ``python -m supervisor``: find the verb, import only what it needs, turn errors into exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from supervisor.cli.words import VERBS, parser_of
from supervisor.errors import BUG, ConfigError, RankdError


def main(argv: Sequence[str] | None = None) -> int:
    """The whole command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Only the verb that was asked for is imported; with none (or --help) all are, for their lines of help.
    parser, verbs = parser_of([word for word in words[:1] if word in VERBS] or VERBS, words)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:  # argparse itself would show the usage of ``rankd``, which says nothing about the verb's
        verbs[arguments.verb].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return int(arguments.main(arguments))
    except RankdError as error:
        complain(error)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except Exception:  # noqa: BLE001 - said for what it is, with the code for it
        sys.stderr.write("rankd: a bug in rankd itself:\n")
        traceback.print_exc()
        return BUG


def complain(error: RankdError) -> None:
    """Say on stderr what ends us; where that is the journal, so that ``journalctl -p err`` shows it (sd-daemon(3))."""
    from supervisor.host.systemd import is_journal  # noqa: PLC0415 - only when something is wrong

    priority = "<3>" if is_journal(os.environ, 2) else ""
    # A mistake in a file begins with file and line, as editors want it.
    words = str(error) if isinstance(error, ConfigError) else f"rankd: {error}"
    sys.stderr.write("".join(f"{priority}{line}\n" for line in words.splitlines()))


if __name__ == "__main__":
    sys.exit(main())
