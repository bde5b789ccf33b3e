"""Every daemon started here runs in a folder of its own and is checked for what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.rankd import Rankd

Start = Callable[..., Rankd]


@pytest.fixture
def rankd(tmp_path: Path) -> Iterator[Start]:
    """``rankd(config, ...)`` starts a daemon (see ``Rankd``); all are closed and checked after the test."""
    running: list[Rankd] = []

    def start(config: str | Path, **more: object) -> Rankd:
        directory = tmp_path / f"rankd{len(running)}"
        directory.mkdir()
        running.append(Rankd(directory, config, **more))  # type: ignore[arg-type]
        return running[-1]

    yield start
    complaints = []
    for daemon in running:
        try:
            daemon.close()
        except AssertionError as error:
            complaints.append(str(error))
    assert not complaints, "\n\n".join(complaints)
