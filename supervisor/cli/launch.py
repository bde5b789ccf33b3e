"""torchrun's command line: one worker group on this host, and an end when the job ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from supervisor.errors import USAGE, RankdError
from supervisor.launch import flags

if TYPE_CHECKING:
    from supervisor.launch.logs_class import LogsClass
    from supervisor.launch.plan import Launch

HELP = "run one job as torchrun does, with torchrun's flags, and end with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add(parser, os.environ)


def wrong_usage(words: Sequence[str]) -> int:
    """The exit code of what cannot be parsed: argparse's, as torchrun has it, where torchrun's are asked for."""
    asked = os.environ.get("PET_TORCHRUN_EXIT_CODES", "0") != "0"
    return 2 if asked or {"--torchrun-exit-codes", "--torchrun_exit_codes"} & set(words) else USAGE


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

    with ExitStack() as stack:
        log_dir, placer = arguments.log_dir, None
        if launch.logs_specs:
            log_dir, placer = None, _logs_class(arguments, launch, stack)
        signals.hold(launch.stop_signals)  # from here on there is something to clean up
        return daemon.run(launch.plan(stack.enter_context(places(log_dir, launch.run_id))), placer=placer)


def _logs_class(arguments: argparse.Namespace, launch: Launch, stack: ExitStack) -> LogsClass:
    """Who says where output goes. Its directories it makes itself, in --log-dir or elsewhere."""
    from supervisor.launch.logs_class import LogsClass  # noqa: PLC0415 - few have one

    ranks = {int(rank) for rank in arguments.local_ranks_filter.split(",") if rank}
    words = arguments.redirects, arguments.tee
    return stack.enter_context(LogsClass(launch.logs_specs, arguments.log_dir, *words, ranks))
