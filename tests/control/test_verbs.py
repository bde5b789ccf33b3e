"""What may be asked of a daemon when: each verb is done, or refused in one sentence and nothing comes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from supervisor.control.verbs import Asker, Reply, Verbs
from supervisor.core.events import Event
from supervisor.core.groups import Arrival, DrainRequested, UndrainRequested
from supervisor.core.messages import Worker
from supervisor.plan import DaemonPlan, Reach
from tests.stories.story import Story, asked_to_stop, due, end, exited, gone, job, killed, read_anew, running
from tests.stories.test_rolling import serving

ROOT = Asker(0, "root")


@dataclass(frozen=True)
class Refusal:
    why: str
    mistakes: tuple[str, ...] = ()
    fault: str = "file"


@dataclass
class Asked:
    """Verbs on a story: what is asked for happens to it."""

    story: Story
    refusal: Refusal | None = None
    told: list[Event] = field(default_factory=list)
    arrived: list[Arrival] = field(default_factory=list)
    in_file: DaemonPlan | None = None
    scaled: list[tuple[str, int]] = field(default_factory=list)
    looked_at: list[tuple[str, list[Worker], str]] = field(default_factory=list)
    signalled: list[tuple[str, list[Worker], int, Reach]] = field(default_factory=list)

    def verbs(self) -> Verbs:
        async def reload() -> Refusal | None:
            return self.refusal

        async def set_workers(group: str, workers: int) -> Refusal | None:
            self.scaled.append((group, workers))
            return self.refusal

        def signal(group: str, workers: Iterable[Worker], number: int, reach: Reach) -> None:
            self.signalled.append((group, list(workers), number, reach))

        async def hosts(group: str) -> dict[str, Any]:
            return {"leader": f"the leader of {group}", "hosts": []}

        async def read(path: str) -> DaemonPlan | Refusal:
            return self.refusal or self.in_file or self.story.state.plan

        async def look(group: str, workers: list[Worker], reason: str) -> tuple[str, str]:
            self.looked_at.append((group, workers, reason))
            return ("/logs/evidence_0.txt", "") if self.refusal is None else ("", self.refusal.why)

        state, tell = (lambda: self.story.state), self.told.append
        return Verbs(state, self.arrive, tell, signal, reload, set_workers, lambda: 41, hosts, read, look)

    def arrive(self, arrival: Arrival) -> None:
        self.arrived.append(arrival)
        self.story.happen(self.story.now, arrival)

    def do_to(self, group: str, verb: str, **options: str) -> Reply:
        return self.verbs().do_to(group, verb, options, ROOT)

    def refused(self, reply: Reply) -> tuple[int, str]:
        assert not self.told
        assert not self.arrived
        assert not self.signalled
        return reply.status, reply.body["error"]


def test_who_has_asked_for_what_is_told_before_what_comes_of_it() -> None:
    asked = Asked(running(job()))
    assert asked.do_to("job", "stop") == Reply(200, {"seq": 41, "attempt": 0})
    (event,) = asked.told
    assert (event.name, event.group, event.fields["user"]) == ("control.command", "job", "root")
    assert asked.story.group.stopped_by == "root"
    assert asked.story.group.why == "stopped by root with `rankd stop`"


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_nothing_is_started_by_a_daemon_that_stops(verb: str) -> None:
    story = running(job())
    story.happen(1.0, end())
    asked = Asked(story)
    assert asked.refused(asked.do_to("job", verb)) == (409, "the daemon is stopping: SIGTERM")
    assert asked.do_to("job", "stop").status == 200


def test_a_group_that_the_configuration_has_no_more_is_not_started() -> None:
    story = running(job("a"), job("b"))
    story.happen(1.0, read_anew(job("a")))
    asked = Asked(story)
    assert asked.refused(asked.do_to("b", "restart")) == (409, "the configuration has group b no more")


def test_nothing_is_started_over_what_cannot_be_killed() -> None:
    story = running(job("a"), job("b"))
    story.happen(1.0, asked_to_stop(by="root", of="a"))
    for at in (31.0, 41.0):
        story.happen(at, due("ladder", of="a"))
    asked = Asked(story)
    status, why = asked.refused(asked.do_to("a", "start"))
    assert (status, why) == (
        409, "group a has workers that cannot be killed (rank 0): their slots are not used again",
    )  # fmt: skip


def test_there_is_no_such_group() -> None:
    asked = Asked(running(job("a"), job("b")))
    assert asked.refused(asked.do_to("x", "stop")) == (404, "there is no group x; there are: a, b")


def test_a_signal_goes_to_those_that_run_and_to_no_others() -> None:
    story = running(job(workers=3))
    story.happen(1.0, exited(1))
    asked = Asked(story)
    assert asked.do_to("job", "signal", signal="10").body["ranks"] == [0, 2]
    assert asked.signalled == [("job", [Worker(0, 0), Worker(2, 0)], 10, "leader")]
    fresh = Asked(story)
    assert fresh.refused(fresh.do_to("job", "signal", signal="10", rank="1")) == (
        409,
        "rank 1 of group job does not run",
    )
    for options in ({}, {"signal": "65"}, {"signal": "0"}, {"signal": "\u0663"}, {"signal": "9", "rank": "x"}):
        assert fresh.refused(fresh.do_to("job", "signal", **options))[0] == 400


async def test_a_refused_reload_says_every_mistake() -> None:
    asked = Asked(running(job()), Refusal("f:1: x", ("f:1: x", "f:2: y")))
    reply = await asked.verbs().do("reload", ROOT)
    assert reply == Reply(422, {"error": "not reloaded: f:1: x", "mistakes": ["f:1: x", "f:2: y"]})


async def test_clients_are_kept_away_and_let_back() -> None:
    asked = Asked(running(job()))
    assert (await asked.verbs().do("drain", ROOT)).status == 200
    assert asked.story.state.drained_by == "root"
    assert (await asked.verbs().do("undrain", ROOT)).status == 200
    assert asked.arrived == [DrainRequested("root"), UndrainRequested("root")]
    assert asked.story.state.drained_by == ""
    asked.story.happen(1.0, end())
    assert (await asked.verbs().do("drain", ROOT)).body == {"error": "the daemon is stopping: SIGTERM"}


def test_a_group_is_not_restarted_into_a_world_without_what_it_needs() -> None:
    story = running(job("a"), job("b", depends_on={"a": "ready"}))
    story.happen(1.0, asked_to_stop(by="root", of="a"))
    story.happen(2.0, killed(0, 15, of="a"))
    story.happen(2.0, gone(0, of="a"))
    asked = Asked(story)
    assert asked.refused(asked.do_to("b", "restart")) == (
        409, "group b could not start again: it depends on a, which is finished and not ready",
    )  # fmt: skip


@pytest.mark.parametrize(("fault", "status"), [("file", 422), ("host", 503), ("rankd", 500)])
async def test_a_reload_that_is_refused_is_not_always_the_files_fault(fault: str, status: int) -> None:
    asked = Asked(running(job()), Refusal("no", fault=fault))
    reply = await asked.verbs().do("reload", ROOT)
    assert (reply.status, reply.body["error"]) == (status, "not reloaded: no")


async def test_a_daemon_that_stops_reads_no_file() -> None:
    story = running(job())
    story.happen(1.0, end())
    assert (await Asked(story, Refusal("not asked")).verbs().do("reload", ROOT)).status == 409


async def test_the_hosts_of_a_group_are_asked_for_only_if_there_is_such_a_group() -> None:
    asked = Asked(running(job("trainer")))
    assert await asked.verbs().hosts_of("trainer") == Reply(200, {"leader": "the leader of trainer", "hosts": []})
    reply = await asked.verbs().hosts_of("traner")
    assert asked.refused(reply) == (404, "there is no group traner; there are: trainer")


async def test_a_plan_says_of_each_group_what_a_reload_would_do_and_why_it_would_be_refused() -> None:
    asked = Asked(running(job("trainer"), job("cache"), job("server")))
    plan = asked.story.state.plan
    server = replace(plan.groups["server"], command=("other",), ready_after=9.0)
    asked.in_file = replace(
        plan,
        node_id="other",
        log_level="debug",
        groups={"cache": plan.groups["cache"], "server": server, "new": replace(server, name="new")},
    )
    reply = await asked.verbs().plan("/etc/rankd.toml", ROOT)
    assert reply.body == {
        "groups": {
            "trainer": {"what": "remove", "keys": []},
            "cache": {"what": "unchanged", "keys": []},
            "server": {"what": "restart", "keys": ["command"]},
            "new": {"what": "add", "keys": []},
        },
        "applied": ["log.level"],
        "refused": "only a restart of rankd can change daemon.node_id",
    }
    assert asked.refused(await asked.verbs().plan("rankd.toml", ROOT)) == (400, "the path of a file is absolute")
    asked.refusal = Refusal("rankd.toml:3: wrong", ("rankd.toml:3: wrong",))
    reply = await asked.verbs().plan("/etc/rankd.toml", ROOT)
    assert asked.refused(reply) == (422, "no plan: rankd.toml:3: wrong")
    assert reply.body["mistakes"] == ["rankd.toml:3: wrong"]


async def test_who_may_only_ask_has_no_file_read_that_is_not_his() -> None:
    asked = Asked(running(job()))
    reply = await asked.verbs().plan("/etc/shadow", Asker(4711, "guest"))
    assert asked.refused(reply) == (403, "guest may not have this daemon read files")


def test_one_rank_is_restarted_where_each_serves_for_itself() -> None:
    asked = Asked(running(serving(2)))
    assert asked.do_to("job", "restart", rank="1") == Reply(200, {"seq": 41, "attempt": 0})
    (event,) = asked.told
    assert (event.fields["verb"], event.fields["details"]) == ("restart", "rank 1")
    assert asked.story.group.live[1].condemned is not None


def test_a_rank_that_has_ended_says_which_attempt_it_had() -> None:
    story = running(serving(2, policy="on-failure"))
    story.happen(1.0, exited(1, code=0))
    story.happen(1.0, gone(1))
    asked = Asked(story)
    assert asked.do_to("job", "start", rank="1").body["attempt"] == 0
    assert asked.story.group.live[1].worker.attempt == 1


@pytest.mark.parametrize(
    ("verb", "rank", "status", "said"),
    [
        ("stop", "1", 400, "one rank can be started and restarted"),
        ("restart", "-1", 400, "a rank is a number from 0 on"),
        ("restart", "7", 409, "group job has no rank 7"),
    ],
)
def test_of_one_rank_not_everything_can_be_had(verb: str, rank: str, status: int, said: str) -> None:
    asked = Asked(running(serving(2)))
    found, why = asked.refused(asked.do_to("job", verb, rank=rank))
    assert found == status
    assert said in why


async def test_a_group_is_scaled_as_somebody_says() -> None:
    asked = Asked(running(job()))
    assert await asked.verbs().scale("job", "3", ROOT) == Reply(200, {"seq": 41, "attempt": 0})
    assert asked.scaled == [("job", 3)]
    (event,) = asked.told
    assert (event.name, event.fields["verb"], event.fields["details"]) == ("control.command", "scale", "to 3")


@pytest.mark.parametrize("number", ["", "0", "-1", "1.5", "many", "1" * 10])
async def test_no_group_has_other_than_a_number_of_workers(number: str) -> None:
    asked = Asked(running(job()))
    assert asked.refused(await asked.verbs().scale("job", number, ROOT)) == (
        400,
        "a number of workers is one from 1 on",
    )
    assert not asked.scaled


async def test_a_group_is_not_scaled_where_the_configuration_with_that_number_is_wrong() -> None:
    asked = Asked(running(job()), Refusal("rankd.toml:3: has 4 ports", ("rankd.toml:3: has 4 ports",)))
    reply = await asked.verbs().scale("job", "9", ROOT)
    assert (reply.status, reply.body["error"]) == (422, "not scaled: rankd.toml:3: has 4 ports")
    assert (await asked.verbs().scale("nobody", "1", ROOT)).status == 404


async def test_nothing_is_scaled_by_a_daemon_that_stops() -> None:
    story = running(job())
    story.happen(1.0, end())
    asked = Asked(story)
    assert asked.refused(await asked.verbs().scale("job", "2", ROOT)) == (409, "the daemon is stopping: SIGTERM")


async def test_a_dump_looks_at_those_that_run() -> None:
    asked = Asked(running(job(workers=2)))
    assert await asked.verbs().dump("job", "1", ROOT) == Reply(200, {"path": "/logs/evidence_0.txt"})
    ((group, (first,), reason),) = asked.looked_at
    assert (group, first.rank, reason) == ("job", 1, "is looked at: asked by root with `rankd dump`")
    assert [event.name for event in asked.told] == ["control.command"]
    asked.told.clear()
    assert asked.refused(await asked.verbs().dump("job", "7", ROOT)) == (409, "rank 7 of group job does not run")
    assert asked.refused(await asked.verbs().dump("jab", "", ROOT)) == (404, "there is no group jab; there are: job")
    asked.refusal = Refusal("it is looked at already")
    reply = await asked.verbs().dump("job", "", ROOT)
    assert (reply.status, reply.body["error"]) == (503, "group job: it is looked at already")


async def test_of_a_group_that_does_not_run_there_is_nothing_to_see() -> None:
    asked = Asked(running(job()).ends(1.0, 0))
    assert asked.refused(await asked.verbs().dump("job", "", ROOT)) == (409, "no worker of group job runs")
