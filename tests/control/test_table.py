"""The table of ``rankd status``: what it says of every kind of trouble, and that it fits wherever it is shown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from supervisor.control.table import table
from supervisor.core import view
from supervisor.core.health import HostView, Snapshot
from supervisor.plan import Backoff, Probe, RestartRules
from supervisor.report.progress import cells
from supervisor.report.status import status
from tests.stories.story import (
    Story,
    asked_to_run,
    asked_to_stop,
    awaited,
    cut_off,
    due,
    exited,
    gone,
    job,
    killed,
    not_started,
    ready,
    running,
    unready,
    up,
)
from tests.stories.test_other_hosts import ELASTIC, one_of_several
from tests.stories.test_rolling import replaced, serving

PAUSED = RestartRules(backoff=Backoff(initial=20.0, jitter=0.0))


def told(story: Story, later: float = 0.0) -> dict[str, Any]:
    """What the daemon answers so many seconds after the last thing that happened."""
    snapshot: Snapshot = view.snapshot(story.state, story.now + later)
    return status(snapshot, {"service": "rankd", "host": "h", "run_id": "r"})


def log_of(group: str, attempt: int, rank: int) -> str:
    return f"/logs/{group}/attempt_{attempt}/{rank}/stderr.log"


def lines(story: Story, width: int | None = None, **more: Any) -> list[str]:
    return table(told(story), width=width, log_of=log_of, **more)


def backing_off() -> Story:
    story = running(job("cache"), job("trainer", workers=4, restart=PAUSED))
    story.happen(3.0, exited(3, 1, of="trainer"))
    story.happen(3.0, gone(3, of="trainer"))
    for rank in range(3):
        story.happen(3.5, killed(rank, 15, of="trainer"))
        story.happen(3.5, gone(rank, of="trainer"))
    return story


def test_of_what_does_well_only_the_numbers_are_said() -> None:
    assert lines(running(job("cache"), job("trainer", workers=64))) == [
        "rankd on h: running, ready",
        "GROUP    PHASE    READY  FOR  ATTEMPT  LEFT",
        "cache    running  1/1    0 s  0        3",
        "trainer  running  64/64  0 s  0        3",
    ]


def test_of_a_group_that_backs_off_it_says_what_comes_when_and_who_has_failed_and_where_its_log_is() -> None:
    assert lines(backing_off()) == [
        "rankd on h: running, not ready",
        "GROUP    PHASE        READY  FOR  ATTEMPT  LEFT",
        "cache    running      1/1    3 s  0        3",
        "trainer  backing off  0/4    0 s  0        2     in 20 s: starts attempt 1",
        "",
        "trainer: rank 3 exited with code 1 after 3.0 s (attempt 0)",
        "    /logs/trainer/attempt_0/3/stderr.log",
    ]


def test_what_is_said_of_time_goes_on_while_nobody_is_asked() -> None:
    assert lines(backing_off(), later=8.0)[3].endswith("8 s   0        2     in 12 s: starts attempt 1")


def test_who_waits_for_another_says_for_whom() -> None:
    story = Story(job("web", depends_on={"cache": "ready"}), job("cache"))
    story.happen(0.0, up())
    assert lines(story)[2].endswith("waits for cache to be ready")


def test_a_stop_under_way_says_what_follows_and_a_stopped_group_who_has_stopped_it() -> None:
    story = running(job("cache"))
    story.happen(1.0, asked_to_stop("stopped by root with `rankd stop`", by="root"))
    assert lines(story, later=22.0)[2].endswith("in 8 s: SIGKILL to what is left; stopped by root with `rankd stop`")
    story.happen(2.0, killed(0, 15))
    story.happen(2.0, gone(0))
    assert lines(story)[2:] == ["cache  stopped  0/1    0 s  0        3     stopped by root with `rankd stop`"]


def test_of_many_troubled_ranks_the_first_are_named_and_the_others_counted() -> None:
    story = running(job("web", workers=12, probe=Probe("http://h")))
    for rank in range(12):
        story.happen(1.0, ready(rank))
    for rank in range(11):
        story.happen(2.0, unready(rank, "503"))
    shown = lines(story)
    assert shown[4:6] == ["web: rank 0 is unready: 503", "    /logs/web/attempt_0/0/stderr.log"]
    assert shown[-1] == "web: 3 more ranks are in trouble: rankd status web"


def test_what_cannot_be_killed_is_named() -> None:
    story = running(job("job"), job("other"))
    story.happen(1.0, asked_to_stop(by="root", of="job"))
    for at in (31.0, 41.0):
        story.happen(at, due("ladder", of="job"))
    assert lines(story)[2].startswith("job    failed")
    assert "job: rank 0 is unkillable" in lines(story)


def test_one_group_is_shown_with_each_of_its_workers() -> None:
    shown = lines(backing_off(), group="trainer")
    assert shown[4:9] == [
        "RANK  STATE    PID  ATTEMPT",
        "0     stopped  -    0        was killed by SIGTERM",
        "1     stopped  -    0        was killed by SIGTERM",
        "2     stopped  -    0        was killed by SIGTERM",
        "3     failed   -    0        exited with code 1",
    ]
    assert not any("cache" in line for line in shown)


@pytest.mark.parametrize("width", [30, 38, 60, 80, 100])
def test_it_fits_but_for_paths_and_loses_no_word_of_a_sentence(width: int) -> None:
    story = backing_off()
    shown = lines(story, width)
    assert not [line for line in shown if cells(line) > width and "/logs/" not in line]
    assert "in 20 s: starts attempt 1" in " ".join(line.strip() for line in shown)
    assert "rank 3 exited with code 1 after 3.0 s" in " ".join(line.strip() for line in shown)


def test_colour_changes_no_letter() -> None:
    import re  # noqa: PLC0415

    plain = lines(backing_off(), 80)
    coloured = lines(backing_off(), 80, colour=True)
    assert [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in coloured] == plain
    assert "\x1b[1;31mbacking off" in coloured[3]


def test_what_a_worker_says_moves_no_cursor() -> None:
    story = running(job("web", probe=Probe("http://h")))
    story.happen(1.0, unready(0, "\x1b[2J503"))
    assert "\x1b" not in "".join(lines(story))


def test_of_a_rolling_restart_it_says_how_far_it_has_come() -> None:
    story = running(serving(2))
    story.happen(1.0, asked_to_run(anew=True))
    replaced(story, 2.0, 0)
    assert lines(story)[2].endswith("replaces its workers, 1/2 so far")


def test_of_a_rolling_restart_that_has_halted_it_says_who_has_failed_though_the_others_serve() -> None:
    story = running(serving(3))
    story.happen(1.0, asked_to_run(anew=True))
    story.happen(2.0, killed(0, 15))
    story.happen(2.0, gone(0))
    story.happen(3.0, not_started(0, "permanent"))
    shown = lines(story)
    assert shown[0] == "rankd on h: running, ready"
    assert shown[2].startswith("job    running  2/3")
    assert shown[2].endswith("not all workers are replaced")
    assert shown[4].startswith("job: rank 0")
    assert shown[5].strip().startswith("/logs/job/")


def test_of_a_group_of_several_hosts_it_says_how_many_they_are_or_that_nothing_is_heard_of_them() -> None:
    story = one_of_several()
    assert lines(story)[2].endswith("round 3, 2 hosts")
    story.happen(1.0, cut_off("connection refused"))
    assert lines(story)[2].endswith("     cut off from the other hosts: connection refused")
    assert lines(story)[0] == "rankd on h: running, not ready"


def of_hosts(*hosts: HostView, **more: Any) -> list[str]:
    """The whole view of a group on host ``h``, with what the store says of its job."""
    said = told(one_of_several())
    said["groups"]["job"]["peers"] = {"leader": "a", "hosts": [asdict(host) for host in hosts], **more}
    return table(said, width=None, log_of=log_of, group="job")


def test_of_a_group_of_several_hosts_it_says_who_runs_who_leads_and_who_waits() -> None:
    shown = of_hosts(
        HostView("a", "running", "10.0.0.1", 2, 0, 0),
        HostView("h", "running", "10.0.0.2", 1, 1, 2),
        HostView("b", "gone", group_rank=2, base_rank=3),
        HostView("c", "waiting", "10.0.0.3", 2),
        HostView("d", "spare", "10.0.0.4", 2),
    )
    assert shown[2].endswith("round 3, 2 hosts; b is gone; c waits; d is a spare")
    assert shown[-6:] == [
        "HOST  STATE    RANKS  ADDRESS",
        "a     running  0-1    10.0.0.1  leads",
        "h     running  2      10.0.0.2  here",
        "b     gone     3      -",
        "c     waiting  -      10.0.0.3",
        "d     spare    -      10.0.0.4",
    ]
    many = [HostView(f"spare-{number}", "waiting", "10.0.0.3", 2) for number in range(9)]
    assert of_hosts(*many)[2].endswith("; 9 hosts wait")


def test_a_group_that_waits_for_a_world_says_who_is_gone_and_not_that_the_others_wait_too() -> None:
    story = Story(job(workers=2, rendezvous=ELASTIC))
    story.happen(0.0, up())
    story.happen(0.0, awaited("waits for round 2, of 3 hosts: host b has left"))
    said = told(story)
    hosts = [HostView("a", "waiting"), HostView("b", "gone"), HostView("c", "gone")]
    said["groups"]["job"]["peers"] = {"leader": "a", "hosts": [asdict(host) for host in hosts]}
    shown = table(said, width=None, log_of=log_of)
    assert shown[2].endswith("     b, c are gone; waits for round 2, of 3 hosts: host b has left")


def test_where_the_store_does_not_answer_it_says_so_in_place_of_the_hosts() -> None:
    assert of_hosts(error="no answer within 3 s")[-1] == "h     the others are not known: no answer within 3 s"


def test_who_waits_for_a_world_has_no_ranks_yet() -> None:
    story = Story(job(workers=2, rendezvous=ELASTIC))
    story.happen(0.0, up())
    story.happen(0.0, awaited("waits as a spare"))
    shown = lines(story, group="job")
    assert shown[2].endswith("     waits as a spare")
    assert shown[-2:] == ["-     pending  -    -", "-     pending  -    -"]
