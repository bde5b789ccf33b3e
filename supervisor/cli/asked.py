"""What the verbs that speak to a running daemon share."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import Any

from supervisor.control import waiting
from supervisor.control.client import Daemon, Refused, Stream
from supervisor.errors import CONFIG, OK, TRY_AGAIN, RankdError

STDOUT = 1
ASK_EVERY = 2.0
"""Seconds after which whoever waits asks again, though no record has come: ``log.level`` may keep those that would."""


class NoSuchGroup(RankdError):
    """The daemon has no group of that name."""

    exit_code = 64


def add_socket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", help="the daemon's control socket, where it is not at its usual places"
    )


def daemon(arguments: argparse.Namespace) -> Daemon:
    """The daemon that is meant; from here on Ctrl-C ends us as it ends any command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return Daemon.find(arguments.socket, os.environ)


def group_of(status: dict[str, Any], name: str) -> dict[str, Any]:
    """How that group stands. Raises ``NoSuchGroup``."""
    try:
        found: dict[str, Any] = status["groups"][name]
    except KeyError:
        raise NoSuchGroup(f"there is no group {name}; there are: {', '.join(status['groups'])}") from None
    return found


def group_and_rank(text: str) -> tuple[str, int | None]:
    """``GROUP`` or ``GROUP:RANK``; raises ``ArgumentTypeError``."""
    name, colon, rank = text.partition(":")
    if not name or (colon and not (rank.isascii() and rank.isdecimal())):
        raise argparse.ArgumentTypeError(f"{text!r} is not GROUP or GROUP:RANK")
    return name, int(rank) if colon else None


def whole_group(text: str) -> str:
    """``GROUP``; raises ``ArgumentTypeError``."""
    name, rank = group_and_rank(text)
    if rank is not None:
        raise argparse.ArgumentTypeError(f"{text}: only of a whole group; one rank can be restarted, or sent a signal")
    return name


def seconds(text: str) -> float:
    """A duration as the configuration has them, at least 0; raises ``ArgumentTypeError``."""
    from supervisor import values  # noqa: PLC0415 - few ask

    try:
        return values.duration(float(text) if text.replace(".", "", 1).isdecimal() else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def wants_colour() -> bool:
    return os.isatty(STDOUT) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def write(text: str) -> None:
    """On stdout and at once, whatever it has been told that its encoding is."""
    write_bytes(text.encode(errors="replace"))


def write_bytes(text: bytes) -> None:
    """Likewise, of what is bytes already."""
    if text:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()


def add_lifecycle(parser: argparse.ArgumentParser, *, of_a_rank: bool = False) -> None:
    """The arguments of start, stop, restart and scale. ``of_a_rank``: one rank will do."""
    if of_a_rank:
        parser.add_argument("group", metavar="GROUP[:RANK]", type=group_and_rank)
    else:
        parser.add_argument("group", metavar="GROUP", type=lambda text: (whole_group(text), None))
    parser.add_argument("--wait", action="store_true", help="return when it is so, or cannot become so any more")
    parser.add_argument("--timeout", metavar="S", type=seconds, help="with --wait: for no longer (exit code 75)")
    add_socket(parser)


def lifecycle(verb: str, arguments: argparse.Namespace, **options: object) -> int:
    """Ask for it; with ``--wait`` see it through."""
    asked, (name, rank) = daemon(arguments), arguments.group
    whom = f"group {name}" if rank is None else f"rank {rank} of group {name}"
    try:
        said = asked.ask_of(name, verb, rank=rank, **options)
    except Refused as refused:
        return _complain(refused)
    if not arguments.wait:
        write(f"{whom}: asked to {verb}\n")
        return OK
    give_up_at = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    with Stream(asked, said["seq"]) as stream:
        while True:
            group = asked.status()["groups"].get(name)
            if rank is None:
                outcome = waiting.outcome(verb, group, said["attempt"])
            else:
                outcome = waiting.outcome_of_rank(verb, group, rank, said["attempt"])
            if outcome is not None:
                return _told(whom, verb, outcome)
            ask_at = time.monotonic() + ASK_EVERY
            if give_up_at is not None:
                if time.monotonic() >= give_up_at:
                    words = f"after {arguments.timeout:g} s {whom} {waiting.so_far(verb, group)}"
                    sys.stderr.write(f"rankd: {words}\n")
                    return TRY_AGAIN
                ask_at = min(ask_at, give_up_at)
            while (records := stream.read(ask_at)) and not waiting.may_decide(records, name):
                pass


def _told(whom: str, verb: str, outcome: waiting.Outcome) -> int:
    if outcome.is_so:
        write(f"{whom} {outcome.words}\n")
        return OK
    sys.stderr.write(f"rankd: {whom} could not be {waiting.DONE[verb]}: {outcome.words}\n")
    return 1


def simply(verb: str, arguments: argparse.Namespace, done: str) -> int:
    """A verb of the daemon's own."""
    try:
        daemon(arguments).ask(verb)
    except Refused as refused:
        return _complain(refused)
    write(f"{done}\n")
    return OK


def _complain(refused: Refused) -> int:
    """Of a configuration that is wrong, each mistake. Raises what else it is."""
    if refused.exit_code != CONFIG or not refused.mistakes:
        raise refused
    sys.stderr.write("".join(f"{mistake}\n" for mistake in refused.mistakes))
    return CONFIG
