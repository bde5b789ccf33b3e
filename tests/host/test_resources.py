"""Limits, priority, CPUs, user and descriptors of a worker are right at its first instruction, however it starts."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.host import forkserver
from supervisor.host.process import seal_inherited_fds
from supervisor.host.resources import refusals
from supervisor.host.spawn import Identity, NotStarted, Spawner
from supervisor.plan import Limit, LogRules, Resources, WorkerPlan

ROOT = Path(__file__).parents[2]
PLAN = WorkerPlan(("true",), {"PATH": "/usr/local/bin:/usr/bin:/bin"}, "", "/", LogRules("/"), 0, {})
LOOK = ("cat", "/proc/self/limits", "/proc/self/oom_score_adj", "/proc/self/stat", "/proc/self/status")
UNLIMITED = resource.RLIM_INFINITY
CPUS = sorted(os.sched_getaffinity(0))

Way = dict[str, Any]
WAYS: dict[str, Way] = {"plain": {}, "from its directory": {"cwd": "/"}, "fork server": {"umask": 0o022}}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
for_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root to see users switched")


class Host:
    """A spawner, and what its workers print."""

    def __init__(self) -> None:
        seal_inherited_fds()
        self.servers: list[int] = []
        self.spawner = Spawner(self.servers.append)
        self.null = os.open(os.devnull, os.O_RDWR)

    def start(self, plan: WorkerPlan, identity: Identity | None = None, out: int | None = None) -> int:
        identity = Identity.of(plan) if identity is None else identity
        return self.spawner.spawn(plan, plan.env, identity, self.null, self.null if out is None else out, 2)

    def printed(self, *argv: str, identity: Identity | None = None, **otherwise: Any) -> bytes:
        """What such a worker prints; it has to succeed."""
        reading, writing = os.pipe()
        with open(reading, "rb") as file:
            try:
                pid = self.start(replace(PLAN, argv=argv, **otherwise), identity, writing)
            finally:
                os.close(writing)
            text = file.read()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, text
        return text

    def refusal(self, **otherwise: Any) -> tuple[str, str]:
        with pytest.raises(NotStarted) as caught:
            self.start(replace(PLAN, **otherwise))
        return caught.value.fault, caught.value.reason

    def close(self) -> None:
        self.spawner.close()
        os.close(self.null)


@pytest.fixture
def host() -> Iterator[Host]:
    with closing(Host()) as host:
        yield host


class Seen:
    """What a worker finds in /proc about itself, as the first thing that it does."""

    def __init__(self, text: bytes) -> None:
        lines = text.decode().splitlines()
        at = next(number for number, line in enumerate(lines) if line.lstrip("-").isdecimal())
        self.limits = {line[:25].strip(): line[26:].split()[:2] for line in lines[1:at]}
        self.oom_score_adj = int(lines[at])
        self.nice = int(lines[at + 1].rpartition(")")[2].split()[16])
        self.status = dict(line.split(":\t", 1) for line in lines[at + 2 :] if ":\t" in line)

    @property
    def open_files(self) -> tuple[int, int]:
        soft, hard = map(int, self.limits["Max open files"])
        return soft, hard

    @property
    def groups(self) -> list[int]:
        return sorted(map(int, self.status["Groups"].split()))


@pytest.fixture
def soft() -> Iterator[int]:
    """A soft limit of open files below the hard one, as every shell gives it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield 256
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def fds() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


@contextmanager
def crowded(host: Host, soft: int) -> Iterator[None]:
    """Within, the host has more files open than that limit allows, as with hundreds of workers."""
    with host.spawner.many_descriptors():
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(soft)]
        try:
            yield
        finally:
            for fd in opened:
                os.close(fd)


# ---- at the first instruction


@ways
def test_what_is_granted_is_there_when_a_worker_looks_first_two_hundred_times(host: Host, way: Way) -> None:
    cpus = frozenset(CPUS[-1:])
    limits = {"nofile": Limit(64, 128), "core": Limit(0, 0), "cpu": Limit(60, 120), "nproc": Limit(5000)}
    wanted = Resources(nice=7, oom_score_adj=321, rlimits=limits, cpus=(cpus,))
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    for _ in range(200):
        seen = Seen(host.printed(*LOOK, resources=wanted, **way))
        assert seen.open_files == (64, 128)
        assert seen.limits["Max core file size"] == ["0", "0"]
        assert seen.limits["Max cpu time"] == ["60", "120"]
        assert seen.limits["Max processes"] == ["5000", "unlimited" if hard == UNLIMITED else str(hard)]
        assert (seen.nice, seen.oom_score_adj) == (7, 321)
        assert seen.status["Cpus_allowed_list"] == str(CPUS[-1])


@ways
def test_a_raised_limit_of_ours_is_never_seen_by_a_worker(host: Host, soft: int, way: Way) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with host.spawner.many_descriptors():
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        for _ in range(200):
            assert Seen(host.printed(*LOOK, **way)).open_files == (soft, hard)
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


@ways
def test_workers_start_when_more_files_are_open_than_they_may_have_themselves(host: Host, soft: int, way: Way) -> None:
    before = fds()
    with crowded(host, soft):
        for _ in range(3):
            assert Seen(host.printed(*LOOK, **way)).open_files[0] == soft
            listed = host.printed("sh", "-c", "exec ls -l /proc/self/fd", **way).decode().splitlines()[1:]
            assert [line.split()[8] for line in listed] == ["0", "1", "2", "3"]
    assert len(fds() - before) <= 2  # the fork server's socket and pidfd


@ways
def test_threads_beside_us_can_open_files_all_the_time(
    soft: int, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an import does: in its own time, and by relative paths."""
    (tmp_path / "here").touch()
    monkeypatch.chdir(tmp_path)
    trouble: list[OSError] = []
    opened = 0
    over = threading.Event()

    def work() -> None:
        nonlocal opened
        while not over.is_set():
            try:
                os.close(os.open("here", os.O_RDONLY))
                opened += 1
            except OSError as error:
                trouble.append(error)

    with closing(Host()) as host, crowded(host, soft), host.spawner.beside_threads():
        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(100):
            assert Seen(host.printed(*LOOK, **way)).open_files[0] == soft
        over.set()
        thread.join()
    assert not trouble
    assert opened > 100


def test_a_plain_start_stays_plain_beside_threads_while_few_files_are_open(host: Host, soft: int) -> None:
    with host.spawner.many_descriptors(), host.spawner.beside_threads():
        assert Seen(host.printed(*LOOK)).open_files[0] == soft
    assert not host.servers


@ways
def test_what_a_library_has_open_while_it_is_loaded_reaches_no_worker(host: Host, way: Way) -> None:
    """Also if that is when the fork server is started."""
    with open("/proc/self/comm") as file, host.spawner.many_descriptors(), host.spawner.beside_loading():
        os.set_inheritable(file.fileno(), True)
        for _ in range(2):
            listed = host.printed("sh", "-c", "exec ls -l /proc/self/fd", **way).decode().splitlines()[1:]
            assert [line.split()[8] for line in listed] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("limit", "seen"),
    [
        (Limit(100, 200), (100, 200)),
        (Limit(100), (100, ...)),
        (Limit(None, 100), (100, 100)),
        (Limit(None, 1000), (256, 1000)),
        (Limit(0, 1000), (0, 1000)),
    ],
)
def test_what_of_a_limit_is_not_given_is_ours(host: Host, soft: int, limit: Limit, seen: tuple[Any, Any]) -> None:
    """The soft limit gives way to the hard one. With none at all there is no program that could look: we do."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with host.spawner.many_descriptors():
        pid = host.start(replace(PLAN, argv=("/bin/sleep", "100"), resources=Resources(rlimits={"nofile": limit})))
    try:
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (seen[0], hard if seen[1] is ... else seen[1])
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_limits_that_bind_a_process_from_inside_do_not_keep_it_from_starting(host: Host) -> None:
    """Address space, data and stack hold for the fork as well, which has a Python in it; its CPU time begins at 0."""
    limits = {name: Limit(48 << 20, 48 << 20) for name in ("as", "data")}
    limits |= {"stack": Limit(1 << 20, 1 << 20), "fsize": Limit(0, 0), "cpu": Limit(1, 1), "nproc": Limit(0, 0)}
    assert host.printed("sh", "-c", "ulimit -v; ulimit -s", resources=Resources(rlimits=limits)) == b"49152\n1024\n"


def test_each_local_rank_has_its_own_cpus_or_all_have_one_set(host: Host) -> None:
    each = Resources(cpus=tuple(frozenset({cpu}) for cpu in CPUS))
    one = Resources(cpus=(frozenset({CPUS[0]}),))
    for rank, cpu in enumerate(CPUS):
        assert Seen(host.printed(*LOOK, resources=each, local_rank=rank)).status["Cpus_allowed_list"] == str(cpu)
        assert Seen(host.printed(*LOOK, resources=one, local_rank=rank)).status["Cpus_allowed_list"] == str(CPUS[0])
    assert os.sched_getaffinity(0) == set(CPUS)


# ---- nothing but what was configured


@ways
def test_a_worker_has_three_descriptors_whatever_we_were_started_with(host: Host, way: Way) -> None:
    stray = os.open("/", os.O_RDONLY)
    os.set_inheritable(stray, True)
    seal_inherited_fds()
    for _ in range(3):  # the second from a fork server that has seen another's descriptors
        listed = host.printed("sh", "-c", "exec ls -l /proc/self/fd", **way).decode().splitlines()[1:]
        assert [line.split()[8] for line in listed] == ["0", "1", "2", "3"]  # the last one is the listing's own
        assert "/proc/" in listed[3]
    os.close(stray)


@ways
def test_a_workers_environment_is_exactly_the_plans(host: Host, way: Way) -> None:
    """Also names that a shell would drop, and bytes that are no text."""
    env = {**PLAN.env, "A.B": "1", "BASH_FUNC_module%%": "() {  :\n}", "EMPTY": "", "BYTES": "\udcff\udc80", "Ä": "ä"}
    found = host.printed("env", "-0", env=env, **way).split(b"\0")
    assert sorted(found[:-1]) == sorted(os.fsencode(f"{name}={value}") for name, value in env.items())


@ways
def test_no_signal_is_blocked_or_ignored_and_the_session_is_its_own(host: Host, way: Way) -> None:
    seen = Seen(host.printed(*LOOK, **way)).status
    assert int(seen["SigBlk"], 16) == 0
    assert int(seen["SigIgn"], 16) & 0x7FFFFFFF == 0  # glibc's posix_spawn ignores its own two, 32 and 33
    assert seen["NSsid"] == seen["Pid"] == seen["NSpgid"]
    assert int(seen["PPid"]) == os.getpid()


@for_root
def test_a_user_comes_with_his_groups_and_without_ours(host: Host) -> None:
    seen = Seen(host.printed(*LOOK, identity=Identity(65534, 65533, (65533, 24, 4))))
    assert seen.status["Uid"].split() == ["65534"] * 4
    assert seen.status["Gid"].split() == ["65533"] * 4
    assert seen.groups == [4, 24, 65533]
    assert int(seen.status["CapEff"], 16) == int(seen.status["CapPrm"], 16) == 0
    seen = Seen(host.printed(*LOOK, user="nobody"))
    assert seen.groups == sorted(os.getgrouplist("nobody", 65534))


@for_root
def test_a_group_alone_changes_only_the_group(host: Host) -> None:
    seen = Seen(host.printed(*LOOK, group="65533"))
    assert (seen.status["Uid"].split(), seen.status["Gid"].split()) == (["0"] * 4, ["65533"] * 4)
    assert seen.groups == sorted(os.getgroups())


@for_root
def test_another_user_gets_what_only_we_may_grant(host: Host) -> None:
    """Limits and priority are set while the process is still ours."""
    wanted = Resources(nice=-5)
    if list(refusals(wanted)):  # a container's root
        reason = "resources.nice cannot be had for 'true': Permission denied"
        assert host.refusal(resources=wanted, user="nobody") == ("permanent", reason)
    else:
        seen = Seen(host.printed(*LOOK, resources=wanted, user="nobody"))
        assert (seen.nice, seen.status["Uid"].split()[0]) == (-5, "65534")


@for_root
def test_a_directory_is_entered_as_the_user_who_will_be_there(host: Host, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    reason = f"the working directory '{tmp_path}' may not be entered as user 'nobody'"
    assert host.refusal(user="nobody", cwd=str(tmp_path)) == ("permanent", reason)


# ---- what may be granted

ASK = """
import json, os, resource, sys
from supervisor.host.resources import refusals
from supervisor.plan import Limit, Resources

def own():
    return (
        os.getpriority(os.PRIO_PROCESS, 0), open("/proc/self/oom_score_adj").read(), sorted(os.sched_getaffinity(0)),
        [resource.getrlimit(number) for number in range(16)],
    )

before = own()
told = []
for wanted in json.loads(sys.argv[1]):
    wanted["rlimits"] = {name: Limit(*both) for name, both in wanted.get("rlimits", {}).items()}
    wanted["cpus"] = tuple(map(frozenset, wanted.get("cpus", ())))
    told.append([[*key, what] for key, what in refusals(Resources(**wanted))])
assert own() == before
print(json.dumps(told))
"""


def without_powers(*command: str) -> list[str]:
    return [sys.executable, "tests/powerless.py", *command]


def refused(*wanted: dict[str, Any]) -> list[list[list[str]]]:
    """What somebody without powers is told."""
    command = ["prlimit", "--nofile=256:512", "--core=0:0", *without_powers(sys.executable, "-c", ASK)]
    done = subprocess.run(
        [*command, json.dumps(wanted)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert not done.stderr
    told: list[list[list[str]]] = json.loads(done.stdout)
    return told


def test_what_is_no_more_than_ours_needs_no_power() -> None:
    wanted = Resources(19, 1000, {"nofile": Limit(8, 8), "core": Limit(0), "cpu": Limit(None, 0)}, (frozenset(CPUS),))
    assert not list(refusals(wanted))
    assert refused(
        {"nice": 19, "oom_score_adj": 1000, "rlimits": {"nofile": [512, 512], "core": [0, 0]}, "cpus": [CPUS]},
        {"nice": os.getpriority(os.PRIO_PROCESS, 0), "rlimits": {"nofile": [512, None]}},
        {"rlimits": {"nofile": [None, 100]}},
    ) == [[], [], []]


def test_what_is_more_than_ours_is_refused_with_the_power_that_it_takes() -> None:
    unit = "in rankd's systemd unit"
    cpus = f"{CPUS[0]}" if len(CPUS) == 1 else f"{CPUS[0]}-{CPUS[-1]}"
    ((nice,), (soft,), (hard,), (core,), (cpu,)) = refused(
        {"nice": -20},
        {"rlimits": {"nofile": [513, None]}},
        {"rlimits": {"nofile": [1, 513]}},
        {"rlimits": {"core": [-1, -1]}},
        {"cpus": [[*CPUS, 4000, 4001, 4003]]},
    )
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert nice == ["nice", f"-20 is below rankd's own ({own}), which takes root's CAP_SYS_NICE, or LimitNICE= {unit}"]
    assert soft == ["rlimits", "nofile", "soft (513) is above rankd's own hard limit (512): give hard as well"]
    power = "which takes root's CAP_SYS_RESOURCE, or"
    assert hard == ["rlimits", "nofile", f"513 is above rankd's own hard limit (512), {power} LimitNOFILE= {unit}"]
    assert core == ["rlimits", "core", f"unlimited is above rankd's own hard limit (0), {power} LimitCORE= {unit}"]
    assert cpu == ["cpu_affinity", f"rankd may not run on CPU 4000-4001,4003 (allowed: {cpus})"]


def test_a_lower_oom_score_adj_needs_a_power_but_to_go_back_to_what_we_were_given() -> None:
    """The kernel lets everybody go back to the least value that a privileged process has set (proc(5))."""
    given = int(Path("/proc/self/oom_score_adj").read_text())
    script = f'echo {given + 100} > /proc/self/oom_score_adj && exec "$@"'
    command = ["sh", "-c", script, "sh", *without_powers(sys.executable, "-c", ASK)]
    wanted = [{"oom_score_adj": value} for value in (given + 100, given + 1, -1000)]
    done = subprocess.run([*command, json.dumps(wanted)], cwd=ROOT, capture_output=True, text=True, check=False)
    reason = (
        f"-1000 is below rankd's own ({given + 100}), which takes root's CAP_SYS_RESOURCE, "
        "or OOMScoreAdjust= in rankd's systemd unit"
    )
    assert (done.stderr, json.loads(done.stdout)) == ("", [[], [], [["oom_score_adj", reason]]])


def test_no_process_may_have_more_open_files_than_the_host_allows() -> None:
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    reason = f"{most + 1} is above {most}, the most that this host allows (sysctl fs.nr_open)"
    assert list(refusals(Resources(rlimits={"nofile": Limit(most + 1, most + 1)}))) == [(("rlimits", "nofile"), reason)]


def test_what_was_permitted_and_is_so_no_more_is_a_permanent_fault(host: Host) -> None:
    reason = "resources.cpu_affinity cannot be had for 'true': Invalid argument"
    assert host.refusal(resources=Resources(cpus=(frozenset({4000}),))) == ("permanent", reason)
    # One of the two would do for the kernel
    assert host.refusal(resources=Resources(cpus=(frozenset({CPUS[0], 4000}),))) == ("permanent", reason)
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    reason = "resources.rlimits.nofile cannot be had for 'true': Operation not permitted"
    assert host.refusal(resources=Resources(rlimits={"nofile": Limit(most + 1, most + 1)})) == ("permanent", reason)


# ---- the fork server


FORKED: Way = {"umask": 0o022}


def test_one_server_serves_all_and_leaves_nothing_open(host: Host) -> None:
    host.printed("true", **FORKED)
    before = fds()
    for number in range(50):
        host.printed("true", **FORKED)
        assert host.refusal(argv=(f"/no/{number}",), **FORKED)[0] == "permanent"
    assert fds() == before
    (server,) = host.servers
    assert len(os.listdir(f"/proc/{server}/fd")) == 4
    assert Path(f"/proc/{server}/comm").read_text() == "forkserver\n"


def test_a_server_that_was_killed_is_replaced(host: Host) -> None:
    host.printed("true", **FORKED)
    os.kill(host.servers[0], signal.SIGKILL)
    os.waitid(os.P_PID, host.servers[0], os.WEXITED | os.WNOWAIT)
    host.printed("true", **FORKED)
    assert len(host.servers) == 2
    assert not Path(f"/proc/{host.servers[0]}").exists()


def test_a_server_that_does_not_answer_is_a_transient_fault_and_replaced(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.printed("true", **FORKED)
    os.kill(host.servers[0], signal.SIGSTOP)
    monkeypatch.setattr(forkserver, "PATIENCE", 0.2)
    reason = "'/usr/bin/true' cannot be started now: nothing has come of it within 0.2 s"
    assert host.refusal(**FORKED) == ("transient", reason)
    monkeypatch.undo()
    host.printed("true", **FORKED)
    assert len(host.servers) == 2


def test_a_server_that_reads_no_more_is_a_transient_fault(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "PATIENCE", 0.2)
    with suppress(NotStarted):  # it may have been slow
        host.printed("true", **FORKED)
    os.kill(host.servers[-1], signal.SIGSTOP)
    env = {**PLAN.env, "X": "x" * (1 << 20)}
    reason = "'/usr/bin/true' cannot be started now: the fork server has not listened for 0.2 s"
    assert host.refusal(env=env, **FORKED) == ("transient", reason)


def test_a_server_that_cannot_be_started_is_a_fault_of_the_moment(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*_: object, **__: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = fds()
    monkeypatch.setattr(os, "posix_spawn", no_process)
    reason = "'/usr/bin/true' cannot be started now: Resource temporarily unavailable"
    assert host.refusal(**FORKED) == ("transient", reason)
    assert fds() == before


LOSER = """
import os, sys
from supervisor.host.spawn import Identity, Spawner
from supervisor.plan import LogRules, WorkerPlan

server = []
plan = WorkerPlan(("/bin/true",), {}, "", "/", LogRules("/"), 0, {}, umask=0)
pid = Spawner(server.append).spawn(plan, {}, Identity(), 0, 1, 2)
os.waitpid(pid, 0)
print(server[0], flush=True)
sys.stdin.read()
"""


def test_a_server_ends_with_its_daemon_however_that_ends() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOSER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdout
        pidfd = os.pidfd_open(int(daemon.stdout.readline()))
        daemon.kill()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000)
    os.close(pidfd)


SIBLING = """
import os, sys
from supervisor.host.forked import forker

fork = forker(sys.argv[1])
if fork() == 0:
    print(os.getpid(), os.getppid(), flush=True)
    os._exit(7)
"""


@pytest.mark.parametrize("machine", [os.uname().machine, "s390x"], ids=["clone", "clone3"])
def test_what_the_server_forks_is_its_parents_child(machine: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIBLING, machine], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    if "Function not implemented" in done.stderr:
        assert machine == "s390x"  # a container forbids clone3, which is why it comes second
        return
    assert not done.stderr
    pid, parent = map(int, done.stdout.split())
    assert parent == os.getpid()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
