"""Command lines as the tests write them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from supervisor.cli.words import Parser
from supervisor.launch import flags
from supervisor.launch.places import Places
from supervisor.launch.plan import Launch, launch_of
from supervisor.plan import DaemonPlan, GroupPlan

PLACES = Places("/logs/job_x", "/tmp/own/.rankd")

ALONE = {"OMP_NUM_THREADS": "4"}
"""An environment that gives no reason for a note."""


def parsed(*words: str, environ: Mapping[str, str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = Parser(prog="rankd launch")
    flags.add(parser, environ or {})
    return parser.parse_args(words)


def launch(*words: str, environ: Mapping[str, str] | None = None) -> Launch:
    """What is to be done for ``rankd launch WORDS... train.py``."""
    environ = ALONE | dict(environ or {})
    return launch_of(parsed(*words, "train.py", environ=environ), environ, "host-a")


def plan(*words: str, environ: Mapping[str, str] | None = None) -> DaemonPlan:
    """The plan of it."""
    return launch(*words, environ=environ).plan(PLACES)


def group(*words: str, environ: Mapping[str, str] | None = None) -> GroupPlan:
    """The one group of it."""
    (only,) = plan(*words, environ=environ).groups.values()
    return only
