"""torchrun's command line: one worker group on this host, and an end when the job ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from supervisor.errors import RankdError
from supervisor.launch import flags

HELP = "run one job as torchrun does, with torchrun's flags, and end with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add(parser, os.environ)


def main(arguments: argparse.Namespace) -> int:
    """The root cause's exit code, or torchrun's if that is asked for: 1 for whatever went wrong."""
    try:
        code = _launch(arguments)
    except RankdError as error:
        if arguments.torchrun_exit_codes:
            error.exit_code = 1
        raise
    return min(code, 1) if arguments.torchrun_exit_codes else code


def _launch(arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as with any command: there is nothing to stop yet
    from supervisor.host.names import node_id  # noqa: PLC0415 - ``--help`` needs none of these
    from supervisor.launch.places import places  # noqa: PLC0415
    from supervisor.launch.plan import launch_of  # noqa: PLC0415

    launch = launch_of(arguments, os.environ, node_id())
    for note in launch.notes:
        sys.stderr.write(f"rankd: {note}\n")
    from supervisor import daemon  # noqa: PLC0415 - what takes long comes after what may be refused
    from supervisor.host import signals  # noqa: PLC0415

    signals.hold(launch.stop_signals)  # from here on there is something to clean up
    with places(arguments.log_dir, launch.run_id) as found:
        return daemon.run(launch.plan(found))
