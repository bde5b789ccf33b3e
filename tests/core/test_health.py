"""Live, started, ready, and why not: answered from a snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.core import health
from supervisor.core.health import LISTED, Answer, GroupView, HostView, RendezvousView, Snapshot, Stage, WorkerView


def view(name: str, phase: str = "running", **options: Any) -> GroupView:
    values: dict[str, Any] = {
        "since": 0.0, "ready_workers": 2, "size": 2, "attempt": 0, "restarts": 0, "restarts_left": 3, "required": True,
        "ready": True, "was_ready": True, "succeeded": False, "why": "",
    }  # fmt: skip
    return GroupView(name, phase, **(values | options))


def away(name: str, **options: Any) -> GroupView:
    values: dict[str, Any] = {"ready": False, "ready_workers": 0, "why": "rank 1 exited with code 3"}
    return view(name, "backing_off", **(values | options))


def snapshot(*views: GroupView, stage: Stage = "running", why: str = "") -> Snapshot:
    return Snapshot(10.0, stage, {one.name: one for one in views}, why)


def test_who_answers_is_live_whatever_becomes_of_the_groups() -> None:
    assert health.live(snapshot(away("a"), stage="stopping")) == Answer(True)


def test_a_core_that_is_stuck_is_not_live_and_nothing_else_is_changed_by_it() -> None:
    stuck = replace(snapshot(view("a")), behind=7.25)
    assert health.live(stuck) == Answer(False, ("the core is stuck: it is 7.2 s behind",))
    assert (health.ready(stuck), health.started(stuck)) == (Answer(True), Answer(True))
    assert health.live(replace(stuck, behind=1.0)).ok


def test_the_weight_is_the_share_of_ready_workers_in_the_worst_required_group() -> None:
    serving = view("b", size=8, ready_workers=6, ready=False, gang=False)
    assert health.weight(snapshot(view("a"), serving)) == 75
    assert health.weight(snapshot(view("a"), replace(serving, required=False))) == 100
    assert health.weight(snapshot(replace(serving, size=1000, ready_workers=1))) == 1
    assert health.weight(snapshot(replace(serving, phase="starting"))) == 0
    assert health.weight(snapshot(away("a", required=False))) == 100


def test_a_gang_that_is_not_whole_has_no_weight() -> None:
    assert health.weight(snapshot(view("a", ready=False, ready_workers=1))) == 0


def test_who_leaves_or_has_nothing_left_to_serve_has_no_weight() -> None:
    done = view("a", "finished", ready=False, succeeded=True, ready_workers=0)
    assert health.weight(snapshot(view("a"), stage="draining")) == 0
    assert health.weight(snapshot(done)) == 0
    assert health.weight(snapshot(done, view("b"))) == 100


def test_started_is_when_every_required_group_has_been_ready_once() -> None:
    never = view("b", "starting", ready=False, was_ready=False, ready_workers=1)
    assert health.started(snapshot(view("a"), away("b"))) == Answer(True)
    assert health.started(snapshot(view("a"), never)) == Answer(
        False, ("group b has not been ready yet: starting, 1/2 workers ready",)
    )
    assert health.started(snapshot(view("a"), view("b", was_ready=False, required=False))).ok


def test_ready_is_when_every_required_group_is() -> None:
    assert health.ready(snapshot(view("a"), view("b"))) == Answer(True)
    assert health.ready(snapshot(view("a"), away("b"), away("c", why=""))) == Answer(
        False,
        (
            "group b is backing_off, 0/2 workers ready: rank 1 exited with code 3",
            "group c is backing_off, 0/2 workers ready",
        ),
    )
    assert health.ready(snapshot(view("a"), away("b", required=False))).ok


def test_a_group_that_has_succeeded_is_not_missed_while_another_serves() -> None:
    done = view("a", "finished", ready=False, succeeded=True, ready_workers=0)
    assert health.ready(snapshot(done, view("b"))).ok
    assert health.ready(snapshot(done)) == Answer(
        False, ("every required group has succeeded: nothing is left to serve",)
    )


def test_with_no_required_group_it_is_ready() -> None:
    assert health.ready(snapshot(away("a", required=False))).ok


@pytest.mark.parametrize("stage", ["draining", "stopping", "stopped"])
def test_who_drains_or_stops_is_not_ready(stage: Stage) -> None:
    assert health.ready(snapshot(view("a"), stage=stage, why="SIGTERM")) == Answer(False, (f"{stage}: SIGTERM",))
    assert health.ready(snapshot(view("a"), stage=stage)) == Answer(False, (stage,))
    assert health.group_ready(snapshot(view("a"), stage=stage, why="SIGTERM"), "a") == Answer(
        False, (f"{stage}: SIGTERM",)
    )


def test_a_single_group_is_ready_or_not_or_unknown() -> None:
    both = snapshot(view("a"), away("b", required=False))
    assert health.group_ready(both, "a") == Answer(True)
    assert health.group_ready(both, "b") == Answer(
        False, ("group b is backing_off, 0/2 workers ready: rank 1 exited with code 3",)
    )
    assert health.group_ready(both, "c") is None


def test_a_single_worker_is_ready_or_not_or_unknown() -> None:
    rows = (
        WorkerView(4, 0, "ready", 1.0),
        WorkerView(5, 1, "draining", 1.0, why="is being replaced"),
        WorkerView(6, 2, "backing_off", 1.0),
    )
    web = view("web", ready=False, workers=rows)
    assert health.worker_ready(snapshot(web), "web", 0) == Answer(True)
    assert health.worker_ready(snapshot(web), "web", 1) == Answer(
        False, ("rank 5 of group web is draining: is being replaced",)
    )
    assert health.worker_ready(snapshot(web), "web", 2) == Answer(False, ("rank 6 of group web is backing_off",))
    assert health.worker_ready(snapshot(web), "web", 3) is None
    assert health.worker_ready(snapshot(web), "other", 0) is None
    assert health.worker_ready(snapshot(web, stage="draining"), "web", 0) == Answer(False, ("draining",))
    assert health.worker_ready(snapshot(web, stage="stopping", why="SIGTERM"), "web", 9) is None


def test_of_more_hosts_than_people_read_all_are_counted_and_those_listed_that_do_not_do_what_they_should() -> None:
    well = [HostView(f"h{number}", "running") for number in range(LISTED - 1)]
    view = RendezvousView(1, "formed", "running", 1, 9, hosts=(*well, HostView("x", "succeeded")))
    assert view.listed == view.hosts
    view = replace(view, hosts=(*well, HostView("y", "gone"), HostView("z", "spare")))
    assert view.states == {"running": LISTED - 1, "gone": 1, "spare": 1}
    assert view.listed is not None
    assert [host.name for host in view.listed] == ["y", "z", *(host.name for host in well[:-1])]


def test_where_the_hosts_are_not_known_none_are_counted() -> None:
    view = RendezvousView(1, "formed", "running", 1, 9, "elsewhere")
    assert (view.states, view.listed) == (None, None)


def test_one_line_tells_all_groups() -> None:
    groups = view("a"), away("b", restarts=1), view("c", restarts=2)
    assert (
        health.one_line(snapshot(*groups)) == "a running 2/2; b backing_off 0/2, 1 restart; c running 2/2, 2 restarts"
    )
    assert health.one_line(snapshot(view("a"), stage="draining", why="SIGTERM")) == "draining (SIGTERM): a running 2/2"
