"""Groups that depend on one another start in order and stop in reverse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import Rankd

pytestmark = pytest.mark.end_to_end


def seq(daemon: Rankd, event: str, *, group: str) -> int:
    """The number of that group's record."""
    number: int = daemon.wait_for(event, group=group)["seq"]
    return number


def test_each_condition_is_waited_for(rankd: Start, tmp_path: Path) -> None:
    prepare = python(f"open({str(tmp_path / 'prepared')!r}, 'w').close()")
    after = python(f"import os, signal; assert os.path.exists({str(tmp_path / 'prepared')!r}); signal.pause()")
    daemon = rankd(
        group("trainer", after, depends_on={"prepare": "succeeded", "cache": "ready", "store": "started"})
        + group("cache", SLEEP, workers=2)
        + group("store", SLEEP)
        + group("prepare", prepare)
    )
    began = seq(daemon, "group.starting", group="trainer")
    assert began > seq(daemon, "group.succeeded", group="prepare")
    assert began > seq(daemon, "group.ready", group="cache")
    assert began > seq(daemon, "group.started", group="store")
    daemon.wait_for("group.ready", group="trainer")
    assert daemon.stop() == 0


def test_a_stop_goes_in_reverse(rankd: Start) -> None:
    daemon = rankd(
        group("base", SLEEP)
        + group("middle", SLEEP, depends_on={"base": "ready"})
        + group("top", SLEEP, depends_on={"middle": "ready"})
        + group("beside", SLEEP)
    )
    for name in ("top", "beside"):
        daemon.wait_for("group.ready", group=name)
    assert daemon.stop() == 0
    assert seq(daemon, "group.stopped", group="top") < seq(daemon, "group.stopping", group="middle")
    assert seq(daemon, "group.stopped", group="middle") < seq(daemon, "group.stopping", group="base")
    assert seq(daemon, "group.stopping", group="beside") < seq(daemon, "group.stopped", group="top")


def test_what_depends_on_a_failure_never_starts(rankd: Start) -> None:
    daemon = rankd(
        group("prepare", ["/bin/sh", "-c", "exit 9"], restart={"max_restarts": 0})
        + group("trainer", SLEEP, depends_on={"prepare": "succeeded"})
    )
    assert daemon.wait() == 9
    assert "prepare" in daemon.wait_for("group.failed", group="trainer")["reason"]
    assert not daemon.all("group.starting", group="trainer")


def test_a_group_that_is_not_required_counts_neither_for_readiness_nor_for_the_exit_code(rankd: Start) -> None:
    daemon = rankd(
        group("extra", ["/bin/sh", "-c", "exit 9"], required=False, restart={"max_restarts": 0}) + group("main", SLEEP)
    )
    daemon.wait_for("group.failed", group="extra")
    daemon.wait_for("daemon.ready")
    daemon.until("/readyz", 200)
    assert daemon.http("/readyz/extra").status == 503
    assert daemon.stop() == 0


def test_when_every_required_group_has_succeeded_the_others_are_stopped(rankd: Start) -> None:
    daemon = rankd(group("helper", SLEEP, required=False) + group("main", python("pass")))
    assert daemon.wait() == 0
    daemon.wait_for("group.stopped", group="helper")
