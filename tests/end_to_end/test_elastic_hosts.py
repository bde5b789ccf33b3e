"""Hosts that come and go and meet in a real etcd: what happens to one is known to all."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.peers.etcd import EtcdStore
from tests.end_to_end.configs import python
from tests.end_to_end.conftest import Start
from tests.end_to_end.hosts import Hosts, answers, formed
from tests.end_to_end.launching import launch, launched
from tests.end_to_end.rankd import until
from tests.end_to_end.verbs import ask
from tests.peers.etcd import Etcd, needs_etcd
from tests.ports import free_port

pytestmark = [needs_etcd, pytest.mark.timeout(120)]

TTL = 2.0

FAILS_ONCE = """
import os, sys, time
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    sys.exit(7)
time.sleep(1000)
"""
FAILS = "import os, sys, time; os.environ['RANK'] == '1' and sys.exit(7); time.sleep(1000)"
LOSES = """
import os, sys, time
while os.environ["RANK"] != "0" or not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
os.unlink(sys.argv[1])
sys.exit(1)
"""
TAKES_TURNS = "import os, time; time.sleep(0.7 * int(os.environ['RANK']))"


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """An etcd that no test here ends."""
    server = Etcd(tmp_path_factory.mktemp("etcd"))
    server.start()
    answers(server)
    yield server
    server.stop()


@pytest.fixture
def hosts(rankd: Start, common: Etcd) -> Hosts:
    return Hosts(rankd, common, f"job-{time.monotonic_ns()}")


def test_two_hosts_form_a_world_and_a_third_is_let_in(hosts: Hosts) -> None:
    first, second = hosts.start("1", workers=2), hosts.start("2")
    worlds = [formed(one, 2) for one in (first, second)]
    assert [(world["group_rank"], world["base_rank"], world["world_size"]) for world in worlds] == [
        (0, 0, 3),
        (1, 2, 3),
    ]
    first.until("/readyz", 200)
    third = hosts.start("3")
    worlds = [formed(one, 3) for one in (first, second, third)]
    assert [world["base_rank"] for world in worlds] == [0, 2, 3]
    assert {world["restarts"] for world in worlds} == {0}, "a change of hosts is not charged"
    assert first.wait_for("rendezvous.peer_joined")["peer"] == "h3"
    assert len({world["round"] for world in worlds}) == 1
    told = first.http("/status").json["groups"]["job"]
    assert (told["restarts_left"], told["hosts"], told["round"], told["cut_off"]) == (3, 3, worlds[0]["round"], "")
    metrics = first.http("/metrics").text
    assert f'rankd_rendezvous_round{{group="job"}} {worlds[0]["round"]}.0' in metrics
    assert 'rankd_rendezvous_seconds_count{group="job"} 2.0' in metrics


def test_whichever_daemon_is_asked_says_who_runs_who_leads_and_who_waits(hosts: Hosts) -> None:
    daemons = [hosts.start(name, nodes="2", workers=2) for name in ("1", "2")]
    for daemon in daemons:
        formed(daemon, 2)
    daemons.append(hosts.start("3", nodes="2", workers=2))
    words = "waits as a spare: round 1 runs with 2 hosts, as many as there may be"
    until(lambda: words in daemons[2].http("/status").text, "word of it")
    spare = daemons[2].http("/status").json["groups"]["job"]
    assert (spare["phase"], spare["hosts"], spare["shared"]) == ("starting", 0, True)
    assert spare["rendezvous"]["state"] == "spare"
    assert spare["rendezvous"]["waiting_since"]
    assert spare["rendezvous"]["hosts"] is None, "only who leads has read of them"
    assert 'rankd_rendezvous_hosts{group="job"} 0.0' in daemons[2].http("/metrics").text
    assert 'rankd_rendezvous_state{group="job",state="spare"} 1.0' in daemons[2].http("/metrics").text
    assert 'rankd_rendezvous_hosts{group="job"} 2.0' in daemons[0].http("/metrics").text
    leaders = set()
    for daemon in daemons:
        peers = json.loads(ask(daemon, "status", "--json")[1])["groups"]["job"]["peers"]
        leaders.add(peers["leader"])
        assert [(one["name"], one["state"], one["base_rank"]) for one in peers["hosts"]] == [
            ("h1", "running", 0),
            ("h2", "running", 2),
            ("h3", "spare", None),
        ]
        assert "h3    spare    -      127.0.0.3" in ask(daemon, "status", "job")[1]
    (leader,) = leaders
    assert leader == spare["rendezvous"]["leader"]
    leads = daemons[int(leader.removeprefix("h")) - 1]
    told = leads.http("/status").json["groups"]["job"]["rendezvous"]
    assert told["hosts"] == peers["hosts"]
    assert told["states"] == {"running": 2, "spare": 1}
    assert 'rankd_rendezvous_hosts_by_state{group="job",state="spare"} 1.0' in leads.http("/metrics").text
    assert "rankd_rendezvous_hosts_by_state{" not in daemons[2].http("/metrics").text
    assert "All hosts: 2 running, 1 spare" in leads.http("/").text


def test_hosts_that_are_too_few_say_which_is_gone(hosts: Hosts) -> None:
    first, second = (hosts.start(name, nodes="2") for name in "12")
    for one in (first, second):
        formed(one, 2)
    assert second.stop() == 0
    until(
        lambda: "h2 is gone; waits for round 2, of 2 hosts: host h2 has left" in ask(first, "status")[1], "word of it"
    )
    told = first.http("/status").json["groups"]["job"]["rendezvous"]
    assert told["states"] == {"waiting": 1, "gone": 1}
    assert (told["state"], told["round"], told["phase"]) == ("waiting", 2, "open")


def test_every_worker_is_told_the_address_and_port_of_rank_0(hosts: Hosts) -> None:
    tell = "import os; print(*(os.environ[n] for n in ('MASTER_ADDR','MASTER_PORT','RANK','WORLD_SIZE','GROUP_RANK')))"
    daemons = [hosts.start(name, python(tell), nodes="2") for name in "45"]
    assert [one.wait() for one in daemons] == [0, 0]
    said = [one.log("job", 0, 0).read_text().split() for one in daemons]
    assert said[0][:2] == said[1][:2]
    assert said[0][0] == "127.0.0.4"
    assert [words[2:] for words in said] == [["0", "2", "0"], ["1", "2", "1"]]


def test_survivors_of_a_dead_host_form_anew_within_a_lease_and_a_second(hosts: Hosts) -> None:
    daemons = [hosts.start(name, nodes="2:3") for name in "123"]
    for one in daemons:
        formed(one, 3)
    died_at = time.time()
    daemons[0].signal(signal.SIGKILL)
    for one in daemons[1:]:
        formed(one, 2)
    took = time.time() - died_at
    print(f"new workers {took:.2f} s after the death of a host")
    assert took < TTL + 1 + 2, "two of these seconds are for a busy machine"
    assert daemons[1].wait_for("rendezvous.peer_left")["peer"] == "h1"
    assert not daemons[1].all("worker.failed")


def test_a_worker_that_fails_because_a_host_has_died_is_not_charged(hosts: Hosts, tmp_path: Path) -> None:
    """As collectives do: the peers of a dead host fail long before its lease has ended. No restart is allowed here."""
    lost = tmp_path / "connection-lost"
    daemons = [hosts.start(name, python(LOSES, str(lost)), max_restarts=0) for name in "123"]
    for one in daemons:
        formed(one, 3)
    daemons[2].signal(signal.SIGKILL)
    lost.touch()
    daemons[0].wait_for("worker.failed", rank=0)
    for one in daemons[:2]:
        assert formed(one, 2)["restarts"] == 0
    assert not daemons[0].all("group.gave_up")


def test_a_host_that_leaves_politely_is_not_waited_for(hosts: Hosts) -> None:
    daemons = [hosts.start(name, lease_ttl="30s") for name in "123"]
    for one in daemons:
        formed(one, 3)
    assert daemons[2].stop() == 0
    for one in daemons[:2]:
        assert formed(one, 2)["restarts"] == 0


def test_a_host_that_starts_anew_before_its_lease_has_ended_takes_its_place_again(hosts: Hosts) -> None:
    first, second = (hosts.start(name, nodes="2", lease_ttl="30s") for name in "12")
    for one in (first, second):
        formed(one, 2)
    second.signal(signal.SIGKILL)
    second.process.wait()
    again = hosts.start("2", nodes="2", lease_ttl="30s")
    assert formed(again, 2)["round"] == formed(first, 2, count=2)["round"]


def test_a_host_that_was_paused_for_longer_than_its_lease_comes_back(hosts: Hosts) -> None:
    """The others have gone on without it; its old workers are stopped before it has new ones."""
    daemons = [hosts.start(name) for name in "123"]
    for one in daemons:
        formed(one, 3)
    paused = daemons[0]
    paused.signal(signal.SIGSTOP)
    for one in daemons[1:]:
        formed(one, 2)
    paused.signal(signal.SIGCONT)
    paused.wait_for("worker.exited", attempt=0, by="daemon")
    rounds = {formed(one, 3, count=2)["round"] for one in daemons}
    assert len(rounds) == 1
    assert paused.http("/status").json["groups"]["job"]["restarts"] == 0


def test_too_few_survivors_wait_and_are_not_ready(hosts: Hosts) -> None:
    daemons = [hosts.start(name, nodes="2") for name in "12"]
    for one in daemons:
        formed(one, 2)
    daemons[0].until("/readyz", 200)
    assert daemons[1].stop() == 0
    until(lambda: "waits for round 2, of 2 hosts: host h2 has left" in daemons[0].until("/readyz", 503).text, "reason")
    assert daemons[0].http("/livez").status == 200
    late = hosts.start("3", nodes="2")
    for one in (daemons[0], late):
        formed(one, 2, count=2 if one is daemons[0] else 1)
    daemons[0].until("/readyz", 200)


def test_a_failure_anywhere_restarts_all_hosts_by_one_budget(hosts: Hosts) -> None:
    daemons = [hosts.start(name, python(FAILS_ONCE), nodes="2", workers=1) for name in "12"]
    for one in daemons:
        world = formed(one, 2, count=2)
        assert world["restarts"] == 1
    assert daemons[1].wait_for("worker.failed", rank=1)["exit_code"] == 7
    for one in daemons:
        assert one.http("/status").json["groups"]["job"]["restarts_left"] == 2
    assert daemons[0].wait_for("group.restarting")["cause"] == "peer_failed"


def test_the_verdict_is_the_same_on_every_host(hosts: Hosts) -> None:
    """And is told to a host that comes when all is over."""
    daemons = [hosts.start(name, python(FAILS), nodes="2", max_restarts=1) for name in "12"]
    assert [one.wait() for one in daemons] == [7, 7]
    late = hosts.start("3", python(FAILS), nodes="2", max_restarts=1)
    assert late.wait() == 7
    reasons = {one.wait_for("group.failed")["reason"] for one in (*daemons, late)}
    (reason,) = reasons
    assert reason.startswith("rank 1 exited with code 7")
    assert reason.endswith("(host h2)")
    assert not late.all("worker.started")
    charged = daemons[0].all("group.restarting", cause="peer_failed")
    assert [one["restarts_left"] for one in charged] == [0], "the second one was no restart"


def test_a_host_that_succeeds_first_waits_for_the_others(hosts: Hosts) -> None:
    daemons = [hosts.start(name, python(TAKES_TURNS), nodes="3") for name in "123"]
    assert [one.wait() for one in daemons] == [0, 0, 0]
    for one in daemons:
        one.wait_for("exit_barrier.waiting")
        assert one.wait_for("exit_barrier.done")["in_time"]
        assert len(one.all("rendezvous.formed")) == 1, "who has finished is not taken for gone"
    late = hosts.start("4", nodes="3")
    assert late.wait() == 0
    assert late.wait_for("group.succeeded")


def test_the_exit_barrier_is_bounded(hosts: Hosts) -> None:
    first = hosts.start("1", python("pass"), nodes="2", exit_barrier_timeout="1s")
    other = hosts.start("2", nodes="2")
    assert first.wait() == 0
    assert not first.wait_for("exit_barrier.done")["in_time"]
    assert other.stop() == 0


def test_a_program_that_cannot_be_started_fails_the_job_at_once(hosts: Hosts) -> None:
    daemons = [hosts.start("1", nodes="2"), hosts.start("2", ["/no/such/program"], nodes="2")]
    assert [one.wait() for one in daemons] == [127, 127]


def test_no_world_in_time_is_exit_code_75(hosts: Hosts) -> None:
    alone = hosts.start("1", nodes="2", join_timeout="1s")
    assert alone.wait() == 75
    assert "no 2 hosts were ready within 1 s" in alone.wait_for("rendezvous.timed_out")["message"]


def test_etcd_away_for_a_moment_ends_no_worker(rankd: Start, tmp_path: Path) -> None:
    """For longer than the lease: workers run on, nothing is ready, and all is well again when etcd is back."""
    etcd = Etcd(tmp_path)
    etcd.start()
    answers(etcd)
    try:
        hosts = Hosts(rankd, etcd, "away")
        daemons = [hosts.start(name, nodes="2") for name in "12"]
        for one in daemons:
            formed(one, 2)
            one.until("/readyz", 200)
        etcd.members[0].kill()
        for one in daemons:
            one.wait_for("rendezvous.lost")
            assert "cut off from the other hosts" in one.until("/readyz", 503).text
            assert one.http("/livez").status == 200
        etcd.start()
        for one in daemons:
            one.wait_for("rendezvous.recovered")
            one.until("/readyz", 200)
            assert len(one.all("worker.started")) == 1
        assert [one.stop() for one in daemons] == [0, 0]
    finally:
        etcd.stop()


def test_with_stop_workers_end_when_the_lease_may_have(rankd: Start, tmp_path: Path) -> None:
    etcd = Etcd(tmp_path)
    etcd.start()
    answers(etcd)
    try:
        hosts = Hosts(rankd, etcd, "away")
        daemons = [hosts.start(name, nodes="2", store={"on_store_loss": "stop"}) for name in "12"]
        for one in daemons:
            formed(one, 2)
        etcd.members[0].kill()
        for one in daemons:
            one.wait_for("worker.exited", by="daemon")
        etcd.start()
        for one in daemons:
            formed(one, 2, count=2)
        etcd.members[0].kill()
        asked_at = time.monotonic()
        assert [one.stop() for one in daemons] == [0, 0]
        assert time.monotonic() - asked_at < 2 * 3, "who is asked to stop does not wait for an etcd that is away"
    finally:
        etcd.stop()


def test_an_etcd_that_never_answers_is_exit_code_69(rankd: Start, tmp_path: Path) -> None:
    never_started = Etcd(tmp_path)
    lost = Hosts(rankd, never_started, "never").start("1", join_timeout="1s")
    assert lost.wait() == 69
    never_started.stop()


def test_what_the_store_holds_is_json_for_people(hosts: Hosts, common: Etcd) -> None:
    daemons = [hosts.start(name, nodes="2") for name in "12"]
    for one in daemons:
        formed(one, 2)
    kept = asyncio.run(under(common, f"/rankd/{hosts.run_id}/job/"))
    assert kept.pop("now/leader") in (b"h1", b"h2")
    assert kept.keys() == {"now/round", "hosts/h1", "hosts/h2", "seats/h1", "seats/h2"}
    found = {key: json.loads(value) for key, value in kept.items()}
    assert all(value["v"] == 1 for value in found.values())
    assert (found["now/round"]["phase"], found["now/round"]["master_addr"]) == ("formed", "127.0.0.1")
    assert max(map(len, kept.values())) < 400


async def under(etcd: Etcd, prefix: str) -> dict[str, bytes]:
    """What the store has there."""
    store = EtcdStore(etcd.endpoints, chance=random.Random(1))
    try:
        return {entry.key.removeprefix(prefix): entry.value for entry in (await store.range(prefix)).entries}
    finally:
        await store.close()


def test_launch_meets_other_hosts_by_torchruns_words(common: Etcd, tmp_path: Path) -> None:
    """Two on one machine are two hosts; a failure on one is the exit code of both."""
    script = tmp_path / "job.py"
    script.write_text(
        "import os, sys\n"
        "print('seen', *(os.environ[n] for n in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'TORCHELASTIC_RESTART_COUNT')))\n"
        "sys.exit(5 if os.environ['RANK'] == '1' else 0)\n"
    )
    words = [
        "--nnodes=2:3", "--rdzv-backend=etcd", f"--rdzv-endpoint={common.endpoints[0].removeprefix('http://')}",
        f"--rdzv-id=job-{time.monotonic_ns()}", "--rdzv-conf=last_call_timeout=1,lease_ttl=2", "--max-restarts=1",
    ]  # fmt: skip
    with (
        launched(tmp_path, *words, "--local-addr=127.0.0.1", script) as first,
        launched(tmp_path, *words, "--local-addr=127.0.0.2", script) as second,
    ):
        said = [one.communicate(timeout=30) for one in (first, second)]
        assert (first.returncode, second.returncode) == (5, 5), said
    told = [one for one in said if "Root cause (first failure of attempt 1):" in one[1]]
    assert ["seen 1 " in out for out, _ in told] == [True], "where the worker ran, and only there"
    lines = [line.split() for out, _ in said for line in out.splitlines() if line.startswith("seen 1 ")]
    assert [line[2:3] + line[4:] for line in lines] == [["2", "0"], ["2", "1"]], said
    assert {line[3] for line in lines} <= {"127.0.0.1", "127.0.0.2"}
    (explained,) = [err for _, err in said if "Root cause (first failure of attempt 1):" in err]
    assert "reason    : exited with code 5" in explained


def test_launch_without_its_etcd_exits_with_69_and_without_peers_with_75(common: Etcd, tmp_path: Path) -> None:
    words = ["--nnodes=2", "--rdzv-backend=etcd", "--rdzv-id=alone", "--rdzv-conf=join_timeout=1,lease_ttl=2"]
    never = launch(tmp_path, *words, f"--rdzv-endpoint=127.0.0.1:{free_port()}", "job.py")
    assert never.returncode == 69, never.stderr
    alone = launch(tmp_path, *words, f"--rdzv-endpoint={common.endpoints[0].removeprefix('http://')}", "job.py")
    assert alone.returncode == 75, alone.stderr


def test_a_host_that_is_given_more_workers_joins_with_them(hosts: Hosts) -> None:
    """By a reload: it leaves as what it was and comes back as what it is, and the others form a world with it."""
    first, second = (hosts.start(name, nodes="2") for name in "12")
    for one in (first, second):
        formed(one, 2)
    file = second.directory / "rankd.toml"
    file.write_text(file.read_text().replace("workers = 1", "workers = 2"))
    second.signal(signal.SIGHUP)
    for one in (first, second):
        assert formed(one, 2, count=2)["world_size"] == 3
    assert second.until("/readyz", 200).status == 200


def test_one_member_of_etcd_that_dies_is_not_missed(rankd: Start, tmp_path: Path) -> None:
    etcd = Etcd(tmp_path, members=3)
    etcd.start()
    answers(etcd)
    try:
        hosts = Hosts(rankd, etcd, "members")
        daemons = [hosts.start(name, lease_ttl="5s") for name in "12"]
        for one in daemons:
            formed(one, 2)
        etcd.members[0].kill()
        daemons.append(hosts.start("3", lease_ttl="5s"))
        for one in daemons:
            assert formed(one, 3)["restarts"] == 0
        assert [one.stop() for one in daemons] == [0, 0, 0]
        assert not any(one.all("rendezvous.peer_left") for one in daemons[:1])
    finally:
        etcd.stop()
