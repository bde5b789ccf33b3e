"""The same daemons as in tests/end_to_end, with real programs as their workers; and a real systemd around rankd."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import rankd
from tests.interop import booted as boots

__all__ = ["rankd"]


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout installed for the Python of the booted system: its /opt/rankd, made once for all who run tests."""
    own = tmp_path_factory.getbasetemp()
    everybodys = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder, made = everybodys / "installation", everybodys / "installation.made"
    with open(everybodys / "installation.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            boots.install(boots.root(), folder)
            made.touch()
    return folder / "rankd"


@pytest.fixture
def booted(installation: Path, tmp_path: Path) -> Iterator[boots.Machine]:
    """A freshly booted system with rankd in /opt/rankd, nothing else of it in place yet."""
    with boots.booted(boots.root(), tmp_path / "console", {"/opt/rankd": installation}, writable=False) as machine:
        yield machine
