"""A group runs, restarts and ends, and the daemon's exit code says how."""

from __future__ import annotations

import json
import os
import pwd
import signal
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, python, table
from tests.end_to_end.conftest import Start

pytestmark = pytest.mark.end_to_end

CRASH_ONCE = """
import os, signal, sys
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    print("crashing", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    signal.pause()
print("fine", flush=True)
"""


def test_a_job_that_succeeds_exits_0_and_says_so(rankd: Start) -> None:
    daemon = rankd(group("job", python("print('hello')"), workers=3))
    assert daemon.wait() == 0
    daemon.wait_for("group.succeeded", group="job", restarts=0)
    assert len(daemon.all("worker.exited", exit_code=0, by="itself")) == 3
    assert daemon.records[-1]["event"] == "daemon.stopped"
    assert daemon.records[-1]["exit_code"] == 0
    assert sorted(daemon.console) == ["[job0]:hello", "[job1]:hello", "[job2]:hello"]


def test_records_come_in_the_order_of_what_happened(rankd: Start) -> None:
    daemon = rankd(group("job", python("pass"), workers=1))
    assert daemon.wait() == 0
    beside = ("daemon.ready", "health.listening", "health.changed")  # HTTP is loaded while workers run already
    told = [record["event"] for record in daemon.records if record["event"] not in beside]
    assert told == [
        "daemon.started",
        "group.starting",
        "worker.started",
        "group.started",
        "group.ready",
        "worker.exited",
        "group.succeeded",
        "daemon.stopped",
    ]


@pytest.mark.parametrize(
    ("end", "exit_code", "shown"),
    [
        ("sys.exit(7)", 7, {"exit_code": 7}),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9, {"signal": "SIGKILL"}),
        ("os.kill(os.getpid(), signal.SIGTERM)", 128 + 15, {"signal": "SIGTERM"}),
    ],
)
def test_the_exit_code_is_that_of_the_root_cause(
    rankd: Start, end: str, exit_code: int, shown: dict[str, object]
) -> None:
    script = f"import os, signal, sys\nif os.environ['RANK'] == '1': {end}\nsignal.pause()"
    daemon = rankd(group("job", python(script), workers=3, restart={"max_restarts": 0}))
    assert daemon.wait() == exit_code
    failure = daemon.wait_for("worker.failed")
    assert failure["root_cause"] is True
    assert failure["rank"] == 1
    assert failure.items() >= shown.items()
    assert len(daemon.all("worker.failed")) == 1
    assert len(daemon.all("worker.exited", by="daemon")) == 2
    daemon.wait_for("group.failed", group="job", exit_code=exit_code)


def test_one_failure_restarts_the_whole_group_in_a_new_attempt_with_its_own_logs(rankd: Start) -> None:
    daemon = rankd(group("job", python(CRASH_ONCE), workers=3))
    assert daemon.wait() == 0
    daemon.wait_for("worker.failed", rank=1, attempt=0, signal="SIGSEGV", root_cause=True)
    restarting = daemon.wait_for("group.restarting", group="job")
    assert restarting["restarts_left"] == 2
    daemon.wait_for("group.succeeded", restarts=1, attempt=1)
    assert len(daemon.all("worker.started", attempt=0)) == len(daemon.all("worker.started", attempt=1)) == 3
    last_end = max(record["seq"] for record in daemon.all("worker.exited", attempt=0))
    first_start = min(record["seq"] for record in daemon.all("worker.started", attempt=1))
    assert last_end < first_start, "two attempts overlapped"
    assert daemon.log("job", 0, 1).read_text() == "crashing\n"
    assert daemon.log("job", 1, 1).read_text() == "fine\n"
    assert daemon.log("job", 0, 0).read_text() == ""


def test_worker_scope_restarts_only_the_one(rankd: Start, tmp_path: Path) -> None:
    script = f"""
import os, signal
mark = {str(tmp_path / "died")!r}
if os.environ["RANK"] == "1" and not os.path.exists(mark):
    open(mark, "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""
    daemon = rankd(group("serving", python(script), workers=3, restart={"scope": "worker"}))
    again = daemon.wait_for("worker.started", rank=1, count=2)
    assert again["attempt"] > 0
    daemon.wait_for("group.restarting", rank=1)
    assert len(daemon.all("worker.started")) == 4
    assert len(daemon.all("worker.exited")) == 1
    assert daemon.stop() == 0


@pytest.mark.parametrize("scope", ["group", "worker"])
def test_a_loop_of_crashes_ends_with_the_budget(rankd: Start, scope: str) -> None:
    config = group("job", ["/bin/sh", "-c", "exit 4"], workers=1, restart={"max_restarts": 5, "scope": scope})
    daemon = rankd(config)
    assert daemon.wait() == 4
    assert len(daemon.all("worker.started")) == 6
    assert [record["restarts_left"] for record in daemon.all("group.restarting")] == [4, 3, 2, 1, 0]
    daemon.wait_for("group.gave_up", group="job")


def test_a_crash_loop_without_limit_leaves_the_daemon_responsive(rankd: Start) -> None:
    config = group("job", ["/bin/false"], workers=2, restart={"max_restarts": -1, "backoff": {"initial": "0s"}})
    daemon = rankd(config)
    daemon.wait_for("daemon.ready")
    daemon.wait_for("worker.started", count=100)
    replies = [daemon.http("/livez") for _ in range(10)]
    assert {reply.status for reply in replies} == {200}
    assert sorted(reply.took_for for reply in replies)[5] < 0.25
    assert daemon.stop(timeout=5) == 0


def test_backoff_grows_and_a_stop_does_not_wait_for_it(rankd: Start) -> None:
    backoff = {"initial": "20ms", "factor": 8, "max": "1h", "jitter": 0.0}
    config = group("job", ["/bin/false"], restart={"max_restarts": -1, "backoff": backoff})
    daemon = rankd(config)
    daemon.wait_for("group.backing_off", count=4)  # the fourth pause is 10 s
    pauses = [record["pause_ms"] for record in daemon.all("group.backing_off")]
    assert pauses == pytest.approx([20 * 8**n for n in range(4)])
    assert daemon.http("/livez").status == 200
    assert daemon.http("/readyz").status == 503
    assert daemon.stop(timeout=5) == 0


def test_a_fatal_exit_code_is_not_retried(rankd: Start) -> None:
    restart = {"fatal_exit_codes": [3], "success_exit_codes": [0, 5]}
    daemon = rankd(group("job", ["/bin/sh", "-c", "exit 3"], workers=1, restart=restart))
    assert daemon.wait() == 3
    assert len(daemon.all("worker.started")) == 1


def test_another_exit_code_may_count_as_success(rankd: Start) -> None:
    restart = {"success_exit_codes": [0, 5]}
    daemon = rankd(group("job", ["/bin/sh", "-c", "exit 5"], workers=1, restart=restart))
    assert daemon.wait() == 0


def test_a_finished_daemon_that_stays_still_answers(rankd: Start) -> None:
    daemon = rankd(table("daemon", when_done="stay") + group("job", ["/bin/true"], workers=1))
    daemon.wait_for("group.succeeded")
    assert daemon.http("/livez").status == 200
    assert daemon.http("/readyz").status == 503
    assert daemon.http("/startupz").status == 200
    assert daemon.stop() == 0


def test_a_worker_sees_torchs_contract_and_ours_and_nothing_of_the_daemons_own(rankd: Start) -> None:
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    config = table("daemon", run_id="job-42", node_id="host-a") + group(
        "job", python(script), workers=2, role="trainer", env={"MINE": "${RANK} of ${WORLD_SIZE}"}
    )
    daemon = rankd(config, env={"LISTEN_FDS": "0", "WATCHDOG_USEC": "60000000", "PLAIN": "inherited"})
    assert daemon.wait() == 0
    seen = [json.loads(daemon.log("job", 0, rank).read_text()) for rank in range(2)]
    for rank, environment in enumerate(seen):
        error_file = environment["TORCHELASTIC_ERROR_FILE"]
        assert error_file == str(daemon.directory / f"state/logs/job/job-42/attempt_0/{rank}/error.json")
        assert (
            environment.items()
            >= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "ROLE_RANK": str(rank),
                "ROLE_NAME": "trainer",
                "GROUP_RANK": "0",
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "GROUP_WORLD_SIZE": "1",
                "ROLE_WORLD_SIZE": "2",
                "TORCHELASTIC_RESTART_COUNT": "0",
                "TORCHELASTIC_MAX_RESTARTS": "3",
                "TORCHELASTIC_RUN_ID": "job-42",
                "TORCHELASTIC_USE_AGENT_STORE": "False",
                "OMP_NUM_THREADS": "1",
                "RANKD_GROUP": "job",
                "RANKD_ATTEMPT": "0",
                "RANKD_NODE_ID": "host-a",
                "RANKD_STATE_DIR": str(daemon.directory / "state"),
                "MINE": f"{rank} of 2",
                "PLAIN": "inherited",
            }.items()
        )
        assert not {"LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"} & set(environment)
        for name in ("NOTIFY_SOCKET", "TORCHELASTIC_TIMER_FILE"):
            assert environment[name].startswith((f"{daemon.directory}/run/watch-", "@rankd-")), "its group's own"
    assert seen[0]["MASTER_PORT"] == seen[1]["MASTER_PORT"]
    assert 0 < int(seen[0]["MASTER_PORT"]) < 65536


def test_two_groups_have_master_ports_of_their_own(rankd: Start) -> None:
    script = "import os; print(os.environ['MASTER_PORT'])"
    daemon = rankd("".join(group(name, python(script), workers=1) for name in ("a", "b", "c")))
    assert daemon.wait() == 0
    ports = {daemon.log(name, 0, 0).read_text() for name in ("a", "b", "c")}
    assert len(ports) == 3


def test_a_worker_has_only_its_three_descriptors_and_default_signals(rankd: Start) -> None:
    script = """
import os, signal
held = sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
status = open("/proc/self/status").read()
blocked = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
print(held, int(blocked, 16), os.getsid(0) == os.getpid(), flush=True)
"""
    daemon = rankd(group("job", python(script), workers=1))
    assert daemon.wait() == 0
    assert daemon.log("job", 0, 0).read_text() == "[0, 1, 2] 0 True\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_that_was_asked_for_is_a_success(rankd: Start, number: signal.Signals) -> None:
    daemon = rankd(group("job", SLEEP, workers=2))
    daemon.wait_for("group.ready")
    daemon.signal(number)
    assert daemon.wait() == 0
    assert number.name in daemon.wait_for("daemon.stopping")["reason"]
    daemon.wait_for("group.stopped", group="job")
    assert len(daemon.all("worker.exited", signal="SIGTERM", by="daemon")) == 2


def test_a_worker_runs_as_the_user_and_with_the_umask_that_are_asked_for(rankd: Start) -> None:
    nobody = pwd.getpwnam("nobody")
    script = "id -u; id -g; id -G; umask"
    config = group("job", ["/bin/sh", "-c", script], user="nobody", umask="0027", cwd="/")
    daemon = rankd(config)
    if os.geteuid() == 0:
        assert daemon.wait() == 0
        ids = [str(nobody.pw_uid), str(nobody.pw_gid), str(nobody.pw_gid)]
        assert daemon.log("job", 0, 0).read_text().split() == [*ids, "0027"]
    else:  # only root may: said once, not retried
        assert daemon.wait() == 126
        assert "nobody" in daemon.wait_for("worker.failed")["reason"]
