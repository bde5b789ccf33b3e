"""Verbs of the command line, asked of a real daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.rankd import PATIENCE, ROOT, Rankd


def socket_of(daemon: Rankd) -> Path:
    return daemon.directory / "run/control.sock"


def begin(daemon: Rankd, *words: str, through: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A verb under way."""
    return subprocess.Popen(
        [*through, sys.executable, "-m", "supervisor", *words, "--socket", str(socket_of(daemon))],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ask(daemon: Rankd, *words: str, through: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a verb."""
    asking = begin(daemon, *words, through=through)
    out, err = asking.communicate(timeout=PATIENCE)
    return asking.returncode, out, err


def pids(daemon: Rankd, group: str = "job") -> dict[int, int | None]:
    """Of each rank; None: it has no process."""
    workers = json.loads(ask(daemon, "status", "--json")[1])["groups"][group]["workers"]
    return {worker["rank"]: worker["pid"] for worker in workers}
