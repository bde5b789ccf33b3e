"""What a group's workers are granted by the kernel, and that they get nothing of the daemon's by accident."""

from __future__ import annotations

import json
import os
import pwd
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.config.assemble import SET_BY_US
from supervisor.host.containment import MARK
from supervisor.host.resources import missing_powers
from supervisor.host.topology import bind_workers
from tests.end_to_end.configs import SLEEP, group, python
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import ROOT, rankd_command

pytestmark = pytest.mark.end_to_end

LOOK = python("""
import json, os
lines = open("/proc/self/limits").read().splitlines()[1:]
seen = {line[:25].strip(): line[26:].split()[:2] for line in lines}
seen["oom_score_adj"] = int(open("/proc/self/oom_score_adj").read())
seen["nice"] = os.getpriority(os.PRIO_PROCESS, 0)
seen["cpus"] = sorted(os.sched_getaffinity(0))
seen["fds"] = sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd))
print(json.dumps(seen), flush=True)
if os.environ["RANKD_ATTEMPT"] == "0":
    raise SystemExit(3)
""")
CAT = shutil.which("cat")
SOFT = ["prlimit", "--nofile=256:4096"]
CPUS = sorted(os.sched_getaffinity(0))


def test_resources_are_the_configured_ones_at_every_attempt(rankd: Start) -> None:
    resources = {
        "nice": 4,
        "oom_score_adj": 250,
        "cpu_affinity": f"{CPUS[0]};{CPUS[-1]}",
        "rlimits": {"nofile": {"soft": 100, "hard": 200}, "core": 0, "stack": "4MiB", "as": "8GiB", "cpu": "1h"},
    }
    restart = {"max_restarts": 1}
    daemon = rankd(group("job", LOOK, workers=2, resources=resources, restart=restart, stop={"scope": "leader"}))
    assert daemon.wait() == 0
    for attempt in (0, 1):
        ranks = [worker for worker in range(2) if daemon.log("job", attempt, worker).read_text()]
        assert attempt == 0 or ranks == [0, 1]  # in the first attempt one may be stopped before it has looked
        for rank in ranks:
            one = json.loads(daemon.log("job", attempt, rank).read_text())
            assert one["Max open files"] == ["100", "200"]
            assert one["Max core file size"] == ["0", "0"]
            assert one["Max stack size"] == [str(4 << 20)] * 2
            assert one["Max address space"] == [str(8 << 30)] * 2
            assert one["Max cpu time"] == ["3600", "3600"]
            assert (one["nice"], one["oom_score_adj"], one["cpus"]) == (4, 250, [CPUS[0], CPUS[-1]][rank : rank + 1])
            assert one["fds"] == [0, 1, 2]


@pytest.mark.parametrize("keys", [{}, {"cwd": "/"}, {"umask": "0022"}], ids=["plain", "own directory", "own umask"])
def test_workers_see_the_soft_limit_that_rankd_was_started_with_and_three_descriptors(
    rankd: Start, keys: dict[str, str]
) -> None:
    """While rankd itself has more files open than that: a pidfd and two pipes for each of these."""
    stray = os.open("/", os.O_RDONLY)
    os.set_inheritable(stray, True)
    again = {"scope": "worker", "max_restarts": -1, "backoff": {"initial": 0}}
    config = group("job", LOOK, restart=again, depends_on={"crowd": "started"}, env={"RANKD_X": "1"}, **keys)
    daemon = rankd(config + group("crowd", SLEEP, workers=120), through=SOFT, pass_fds=[stray])
    os.close(stray)
    daemon.wait_for("worker.exited", group="job", rank=0, exit_code=0)
    for attempt in (0, 1):
        one = json.loads(daemon.log("job", attempt, 0).read_text())
        assert one["Max open files"] == ["256", "4096"]
        assert one["fds"] == [0, 1, 2]
    assert len(os.listdir(f"/proc/{daemon.process.pid}/fd")) > 256
    assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE) == (4096, 4096)
    assert daemon.until("/livez", 200).text == "ok\n"


POWERLESS = [sys.executable, str(ROOT / "tests/powerless.py")]
TOO_MUCH = {"nice": -5, "rlimits": {"nofile": 1 << 30}}


def test_what_is_not_permitted_is_said_before_any_worker_starts(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, resources=TOO_MUCH), through=POWERLESS)
    assert daemon.wait() == 78
    assert daemon.records == []
    said = "\n".join(daemon.console)
    assert "groups.job.resources.nice: -5 is below rankd's own (" in said
    assert "groups.job.resources.rlimits.nofile: 1073741824 is above " in said


def test_check_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rankd.toml"
    path.write_text(group("job", SLEEP, resources=TOO_MUCH))
    command = [*POWERLESS, sys.executable, "-m", "supervisor", "check", str(path)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=45, check=False
    )
    assert done.returncode == 78
    assert f"{path}:4: groups.job.resources.nice: -5 is below rankd's own (" in done.stderr
    path.write_text(group("job", SLEEP, resources={"nice": 19, "oom_score_adj": 1000}))
    assert rankd_command("check", str(path)).returncode == 0


def test_a_limit_ends_the_worker_that_breaks_it(rankd: Start) -> None:
    """And the signal by which it does is told."""
    resources = {"rlimits": {"cpu": 1, "core": 0}}
    daemon = rankd(group("job", python("while True: pass"), resources=resources, restart={"policy": "never"}))
    assert daemon.wait() == 128 + 9
    assert daemon.wait_for("worker.exited")["signal"] == "SIGKILL"


def test_workers_run_on_the_cpus_that_numa_gives_them(rankd: Start) -> None:
    daemon = rankd(group("job", LOOK, workers=2, resources={"numa": "core-complex"}, restart={"max_restarts": 1}))
    assert daemon.wait() == 0
    for rank, cpus in enumerate(bind_workers("core-complex", 2, os.environ, CPUS)):
        assert json.loads(daemon.log("job", 1, rank).read_text())["cpus"] == sorted(cpus)


SEE = python("""
import json, os
fds = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)]
print(json.dumps({"env": dict(os.environ), "fds": sorted(fds)}))
""")


@pytest.mark.skipif(bool(missing_powers()), reason="needs root, to run workers as another user")
def test_a_worker_of_another_user_sees_that_users_home_and_nothing_of_the_daemons(rankd: Start) -> None:
    nobody = pwd.getpwnam("nobody")
    config = group("other", [str(CAT), "/proc/self/environ"], user="nobody", cwd="/", inherit_env=False)
    config += group("same", SEE, inherit_env=False) + group("own", SEE, inherit_env=False, umask="0022")
    daemon = rankd(config, env={"LEAKED": "secret"})
    assert daemon.wait() == 0
    text = daemon.log("other", 0, 0).read_text()
    seen = dict(line.split("=", 1) for line in text.split("\0") if line)
    assert (seen["HOME"], seen["USER"], seen["LOGNAME"]) == (nobody.pw_dir, "nobody", "nobody")
    assert seen["SHELL"] == nobody.pw_shell
    names = seen.keys() - {"HOME", "USER", "LOGNAME", "SHELL"}
    for spawned in ("same", "own"):  # by posix_spawn, and by the fork server as "other" was
        found = json.loads(daemon.log(spawned, 0, 0).read_text())
        assert found["fds"] == [0, 1, 2]
        assert found["env"].keys() - {"LC_CTYPE"} == names  # which Python sets for itself (PEP 538)
    doors = {"NOTIFY_SOCKET", "TORCHELASTIC_TIMER_FILE"}
    assert names == SET_BY_US | doors | {"TORCH_NCCL_ASYNC_ERROR_HANDLING", MARK}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to take its capabilities away")
def test_root_without_capabilities_is_told_that_it_cannot_run_workers_as_others(rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, user="nobody"), through=POWERLESS)
    assert daemon.wait() == 78
    said = "\n".join(daemon.console)
    assert "groups.job.user: only root may run workers as another user (rankd runs as uid 0 without CAP_CHOWN, " in said
