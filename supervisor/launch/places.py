"""The directories of one launch: its logs, and a private one for state, so that launches never meet."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from supervisor.launch.refused import WrongUsage


class Places(NamedTuple):
    """Absolute. ``run_dir`` has the attempts of this run, ``state_dir`` what rankd keeps for itself."""

    run_dir: str
    state_dir: str


@contextmanager
def places(log_dir: str | None, run_id: str) -> Iterator[Places]:
    """The directories from now until the end, where ``log_dir`` is as torchrun has it: ``<log_dir>/<run_id>_<random>``.

    Without one, logs are in a temporary directory, of which the end leaves what has files in it; with /dev/null, of
    which it leaves nothing. State is never in ``log_dir``: that may be on another host's disk. Raises ``WrongUsage``.
    """
    try:
        own = tempfile.mkdtemp(prefix="torchelastic_")
    except OSError as error:
        raise WrongUsage(f"no temporary directory: {error.strerror}") from error
    state_dir = os.path.join(own, ".rankd")
    try:
        os.mkdir(state_dir, 0o700)
        yield Places(_run_dir(log_dir if keeps_logs(log_dir) and log_dir else own, run_id), state_dir)
    finally:
        shutil.rmtree(state_dir, ignore_errors=True)
        if not keeps_logs(log_dir):
            shutil.rmtree(own, ignore_errors=True)
        for directory, _, _ in os.walk(own, topdown=False):
            with suppress(OSError):  # it has something in it
                os.rmdir(directory)


def keeps_logs(log_dir: str | None) -> bool:
    """False for /dev/null, which is torchrun's word for no log files at all."""
    return log_dir != os.devnull


def _run_dir(log_dir: str, run_id: str) -> str:
    try:
        os.makedirs(log_dir, exist_ok=True)
        return os.path.abspath(tempfile.mkdtemp(prefix=f"{run_id}_", dir=log_dir))
    except OSError as error:
        raise WrongUsage(f"--log-dir {log_dir}: cannot make a directory there: {error.strerror}") from error
