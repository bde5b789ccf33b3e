"""A group whose world has other hosts: it stops when the world changes, and goes by what all have agreed upon."""

from __future__ import annotations

import pytest

from supervisor.core.state import Phase
from supervisor.plan import Backoff, RendezvousRules, RestartRules
from tests.stories.story import (
    Story,
    asked_to_stop,
    awaited,
    cut_off,
    due,
    end,
    exited,
    gone,
    heard_again,
    job,
    job_ended,
    killed,
    met,
    not_started,
    refused,
    started,
    up,
    world_lost,
)

ELASTIC = RendezvousRules("etcd", 4, min_hosts=2, exit_barrier_timeout=60.0)


def one_of_several(**rules: object) -> Story:
    """Two workers of the second of two hosts run in round 3; the job has used one restart of three."""
    rules = {"backoff": Backoff(initial=0.0)} | rules
    story = Story(job(workers=2, rendezvous=ELASTIC, restart=RestartRules(**rules)))  # type: ignore[arg-type]
    for what in (up(), met(3, restarts=1), started(0), started(1)):
        story.happen(0.0, what)
    return story


def test_a_world_is_waited_for_and_says_who_is_who() -> None:
    story = Story(job(workers=2, rendezvous=ELASTIC)).tell(
        (0.0, up(), "form world 0", "group.starting; rendezvous.joining attempt=0"),
    )
    assert story.ready.reasons == (
        "group job is starting, 0/2 workers ready: asked to start; waits for the other hosts",
    )
    story.tell(
        (2.0, met(1), "start 0#0 1#0",
         "rendezvous.formed round=1 hosts=2 group_rank=1 world_size=4 base_rank=2 restarts=0 duration_ms=2000"),
        (2.0, met(2)),
        (2.1, started(0), "", "worker.started rank=2"),
    )  # fmt: skip
    assert story.view.round == 1


@pytest.mark.parametrize(
    ("because", "said"), [("left", "rendezvous.peer_left peer=h3"), ("arrived", "rendezvous.peer_joined peer=h3")]
)
def test_a_change_of_hosts_is_not_charged(because: str, said: str) -> None:
    story = one_of_several().tell(
        (5.0, world_lost(f"host h3 has {because}", because, "h3"), "SIGTERM tree 0#0 1#0; timer ladder 35",
         f"{said} round=3", "group.restarting cause=membership restarts_left=2; group.stopping"),
        (5.0, world_lost("again", because, "h4")),
        (5.1, killed(0, 15), "", "worker.exited by=daemon"), (5.1, gone(0)),
        (5.2, killed(1, 15), "", "worker.exited by=daemon"),
        (5.2, gone(1), "no timer ladder; form world 1", "group.starting attempt=1; rendezvous.joining"),
        (5.3, met(4, restarts=1), "start 0#1 1#1 after 1", "rendezvous.formed round=4 restarts=1"),
    )  # fmt: skip
    assert story.view.restarts_left == 2


def test_a_failure_is_told_to_the_others_and_charged_to_all() -> None:
    story = one_of_several().tell(
        (5.0, exited(0, code=3), "report failure 3; SIGTERM tree 1#0; timer ladder 35",
         "worker.exited; worker.failed rank=2 root_cause=true; group.restarting restarts_left=1; group.stopping"),
        (5.0, world_lost("rank 2 exited with code 3", "failed", "h2")),
    )  # fmt: skip
    story.ends(5.1, 1, code=1).happen(5.2, gone(0))
    story.tell((5.3, met(4, restarts=2), "start 0#1 1#1 after 2", "rendezvous.formed restarts=2"))


def test_a_failure_elsewhere_says_how_many_restarts_are_left_after_it() -> None:
    """The one before had left two of three."""
    story = one_of_several().tell(
        (5.0, world_lost("rank 0 was killed", "failed", "h1", restarts=2), "SIGTERM tree 0#0 1#0; timer ladder 35",
         "group.restarting cause=peer_failed restarts_left=1; group.stopping"),
    )  # fmt: skip
    assert story.view.restarts_left == 1


def test_a_failure_elsewhere_that_was_one_too_many_is_no_restart() -> None:
    one_of_several(max_restarts=1).tell(
        (5.0, world_lost("rank 0 was killed", "failed", "h1", restarts=1, last=True),
         "SIGTERM tree 0#0 1#0; timer ladder 35", "group.stopping"),
    )  # fmt: skip


def test_who_would_give_up_asks_the_others() -> None:
    """Its budget is used up; but another host has been first, and its failure has been charged instead."""
    story = one_of_several(max_restarts=1).tell(
        (5.0, exited(0, code=3), "report failure 3; SIGTERM tree 1#0; timer ladder 35",
         "worker.exited; worker.failed; group.stopping"),
        (5.1, job_ended("rank 0 exited with code 9 (host h1)", 9), "",
         "rendezvous.closed exit_code=9; group.gave_up"),
        (5.1, gone(0)),
        (5.2, exited(1), "", "worker.exited"),
        (5.2, gone(1), "no timer ladder; leave with 9", "group.failed exit_code=9"),
    )  # fmt: skip
    assert story.view.last_failure is not None
    assert story.view.last_failure.reason == "rank 0 exited with code 9 (host h1)"


@pytest.mark.parametrize("fate", ["fatal", "permanent"])
def test_what_no_restart_mends_ends_the_job(fate: str) -> None:
    story = Story(job(rendezvous=ELASTIC, restart=RestartRules(fatal_exit_codes=frozenset({5}))))
    story.happen(0.0, up())
    story.happen(0.0, met(1))
    if fate == "permanent":
        story.happen(0.1, not_started(0, "permanent", "no such file", 127))
    else:
        story.happen(0.1, started(0))
        story.happen(0.2, exited(0, code=5))
    code = 127 if fate == "permanent" else 5
    assert f"report final failure {code}" in story.words


def test_the_jobs_failure_keeps_what_is_known_here_of_its_own() -> None:
    story = one_of_several(max_restarts=1)
    story.happen(5.0, exited(0, code=3))
    story.happen(5.0, gone(0))
    story.ends(5.1, 1, code=1)
    assert story.phase_of() is Phase.STARTING
    failure = story.group.failure
    assert failure is not None
    story.tell(
        (
            5.2,
            job_ended(f"{failure.reason} (host h2)", 3),
            "leave with 3",
            "rendezvous.closed; group.gave_up; group.failed",
        )
    )
    assert story.group.failure is failure
    assert story.state.exit_code == 3


def test_who_succeeds_waits_for_the_others_and_stays_ready() -> None:
    story = one_of_several().ends(5.0, 0)
    story.tell(
        (6.0, exited(1), "", "worker.exited"),
        (6.0, gone(1), "report success; timer barrier 66", "exit_barrier.waiting timeout_ms=60000"),
    )
    assert story.ready.ok
    story.tell(
        (7.0, job_ended("all workers have succeeded"), "no timer barrier; leave",
         "rendezvous.closed; exit_barrier.done in_time=true; group.succeeded"),
    )  # fmt: skip
    assert story.state.exit_code == 0


def at_the_barrier() -> Story:
    return one_of_several().ends(5.0, 0, 1)


def test_who_has_succeeded_starts_again_when_another_fails() -> None:
    at_the_barrier().tell(
        (7.0, world_lost("rank 0 was killed", "failed", "h1"), "no timer barrier; form world 1",
         "group.restarting cause=peer_failed; group.starting; rendezvous.joining"),
    )  # fmt: skip


def test_the_barrier_is_bounded() -> None:
    story = at_the_barrier()
    story.tell((65.0, due("barrier"), "leave", "exit_barrier.done in_time=false; group.succeeded"))
    assert story.over()


def test_a_stop_at_the_barrier_is_a_stop() -> None:
    at_the_barrier().tell((7.0, asked_to_stop(), "no timer barrier; leave", "group.stopped"))


def test_a_stop_is_told_to_the_others_before_the_workers_are_gone() -> None:
    story = one_of_several().tell(
        (5.0, end(), "leave; SIGTERM tree 0#0 1#0; timer ladder 35", "daemon.stopping; group.stopping"),
    )
    story.ends(5.1, 0)
    story.happen(5.1, exited(1))
    story.tell((5.2, gone(1), "no timer ladder; leave", "group.stopped"))


def test_a_stop_while_the_world_is_changing_is_told_as_well() -> None:
    story = one_of_several()
    story.happen(5.0, world_lost("host h3 has left", "left", "h3"))
    story.tell((5.1, asked_to_stop(), "leave"))


def test_waiting_in_vain_is_a_failure_to_be_tried_again() -> None:
    story = Story(job(rendezvous=ELASTIC)).tell(
        (0.0, up(), "form world 0", "group.starting; rendezvous.joining"),
        (600.0, job_ended("no 2 hosts were ready within 600 s", 75, "timed_out"), "leave with 75",
         "rendezvous.timed_out exit_code=75; group.failed exit_code=75"),
    )  # fmt: skip
    assert story.state.exit_code == 75


def test_without_a_world_a_group_decides_alone() -> None:
    """No port, say: nobody else has anything to do with it."""
    story = Story(job(rendezvous=ELASTIC, restart=RestartRules(max_restarts=0)))
    story.tell(
        (0.0, up(), "form world 0", "group.starting; rendezvous.joining"),
        (0.0, refused("no MASTER_PORT"), "leave with 75", "group.gave_up; group.failed"),
    )


def test_the_end_of_the_job_ends_a_pause() -> None:
    story = one_of_several(backoff=Backoff(initial=5.0, jitter=0.0)).ends(1.0, 0, code=1)
    story.ends(1.1, 1, code=1)
    assert story.phase_of() is Phase.BACKING_OFF
    story.tell((2.0, job_ended("over", 1), "no timer backoff; leave with 1", "rendezvous.closed; group.failed"))


def test_cut_off_from_the_others_a_group_runs_on_and_is_not_ready() -> None:
    story = one_of_several()
    assert story.ready.ok
    story.tell(
        (5.0, cut_off("no route"), "", "rendezvous.lost"),
        (5.0, cut_off("no route")),
    )  # fmt: skip
    assert story.ready.reasons == (
        "group job is running, 2/2 workers ready: cut off from the other hosts: no route",
    )  # fmt: skip
    story.tell((6.0, heard_again(), "", "rendezvous.recovered"), (6.0, heard_again()))
    assert story.ready.ok


def test_as_long_as_there_is_no_world_it_says_what_is_waited_for() -> None:
    story = Story(job(workers=2, rendezvous=ELASTIC)).tell(
        (0.0, up(), "form world 0", "group.starting; rendezvous.joining"),
        (1.0, awaited("waits as a spare: round 3 runs with 4 hosts")),
    )
    assert story.ready.reasons == (
        "group job is starting, 0/2 workers ready: waits as a spare: round 3 runs with 4 hosts",
    )  # fmt: skip
    story.tell((2.0, met(4), "start 0#0 1#0", "rendezvous.formed"), (2.0, awaited("old news")))
    assert story.group.why == "in round 4"


def test_what_is_heard_before_and_after_changes_nothing() -> None:
    story = Story(job(rendezvous=ELASTIC))
    story.tell((0.0, job_ended("over", 1)), (0.0, cut_off("away")), (0.0, world_lost("left", "left", "h2")))
