"""The same daemons as in tests/end_to_end, with real programs as their workers; and a real systemd around rankd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import rankd
from tests.interop import booted as boots

__all__ = ["rankd"]


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout installed for the Python of the booted system: its /opt/rankd."""
    return boots.install(boots.root(), tmp_path_factory.mktemp("installation"))


@pytest.fixture
def booted(installation: Path, tmp_path: Path) -> Iterator[boots.Machine]:
    """A freshly booted system with rankd in /opt/rankd, nothing else of it in place yet."""
    with boots.booted(boots.root(), tmp_path / "console", {"/opt/rankd": installation}, writable=False) as machine:
        yield machine
