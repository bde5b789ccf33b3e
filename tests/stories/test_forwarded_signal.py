"""A job's workers get the signal that asked the job to stop, before the rest of their ladder."""

from __future__ import annotations

from supervisor.plan import Rung, StopRules
from tests.stories.story import due, end, exited, gone, job, killed, running


def test_the_signal_that_came_goes_out_in_place_of_the_first_rung() -> None:
    running(job(workers=2)).tell(
        (1.0, end("SIGUSR1", forward=10), "SIGUSR1 tree 0#0 1#0; timer ladder 31",
         "daemon.stopping; group.stopping workers=2"),
        (1.5, killed(0, 10), "", "worker.exited signal=SIGUSR1 by=daemon"),
        (1.5, gone(0)),
        (2.0, end("SIGINT", hurry=True, forward=2), "SIGKILL tree 1#0; timer ladder 12",
         "worker.killed rank=1 signal=SIGKILL"),
    )  # fmt: skip


def test_a_ladder_of_one_rung_only_kills() -> None:
    running(job(stop=StopRules((Rung(9, 10.0),)))).tell(
        (1.0, end("SIGINT", forward=2), "SIGKILL tree 0#0; timer ladder 11", "daemon.stopping; group.stopping")
    )


def test_a_stop_under_way_goes_on_as_it_began() -> None:
    running(job(workers=2)).tell(
        (1.0, exited(0, code=1), "SIGTERM tree 1#0; timer ladder 31",
         "worker.exited; worker.failed; group.restarting; group.stopping"),
        (1.1, gone(0)),
        (2.0, end("SIGINT", forward=2), "", "daemon.stopping"),
        (31.0, due("ladder"), "SIGKILL tree 1#0; timer ladder 41", "worker.killed signal=SIGKILL"),
    )  # fmt: skip
