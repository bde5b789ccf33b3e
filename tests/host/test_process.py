"""Worker processes, for real: every one that was asked for is answered, watched, reached by signals and told gone."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC221, ASYNC222, ASYNC230, ASYNC240 - the loop is ours alone, and may wait for /proc

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest

from supervisor.core.messages import (
    ErrorReport,
    ExitStatus,
    Input,
    StraysFound,
    Worker,
    WorkerExited,
    WorkerGone,
    WorkerNotStarted,
    WorkerStarted,
)
from supervisor.host import containment
from supervisor.host import process as under_test
from supervisor.host.containment import MARK, Sessions, Tree, become_subreaper
from supervisor.host.oom import KERNEL_LOG
from supervisor.host.proc import Process, read_process, send
from supervisor.host.process import Processes, seal_inherited_fds
from supervisor.host.spawn import Identity, make_directory
from supervisor.plan import LogRules, Reach, WorkerPlan

PATH = "/usr/local/bin:/usr/bin:/bin"
Told = WorkerStarted | WorkerNotStarted | WorkerExited | StraysFound | WorkerGone
Some = TypeVar("Some", bound=Told)


class Ends:
    """Output to nowhere; ``told`` hears what is asked of it."""

    def __init__(self, fd: int, told: Callable[[str], None]) -> None:
        self.stdin = self.stdout = self.stderr = fd
        self._told = told

    def started(self, pid: int) -> None:
        self._told("started")

    def abort(self) -> None:
        self._told("abort")

    def drain(self) -> None:
        self._told("drain")

    def stderr_tail(self) -> str:
        return ""

    def close(self) -> None:
        self._told("close")


class Host:
    """Processes under test, and everything that they post and ask of the output, in order."""

    def __init__(self, tmp_path: Path, *, adopts: bool) -> None:
        self.directory = tmp_path
        self.story: list[Told | str] = []
        self.unclaimed: list[Process] = []
        self._news = asyncio.Event()
        self._null = os.open(os.devnull, os.O_RDWR)
        self.containment = Sessions(adopts=adopts, unclaimed=self.unclaimed.append)
        self.processes = Processes(self._post, self, self.containment)
        self._run = asyncio.create_task(self.processes.run())

    def _post(self, group: str, input: Input) -> None:
        assert group == "g"
        assert isinstance(input, Told)
        self.story.append(input)
        self._news.set()

    def attach(self, plan: WorkerPlan) -> Ends:
        make_directory(plan.directory, Identity.of(plan))
        return Ends(self._null, self.story.append)

    def plan(self, *argv: str, **otherwise: object) -> WorkerPlan:
        plan = WorkerPlan(argv, {"PATH": PATH}, "", str(self.directory / "w"), LogRules(str(self.directory)), 0, {})
        return replace(plan, **otherwise)  # type: ignore[arg-type]

    def ask(self, *plans: WorkerPlan) -> list[Worker]:
        workers = [Worker(rank, len(self.story)) for rank in range(len(plans))]
        self.processes.enqueue("g", [(w, partial(replace, plan)) for w, plan in zip(workers, plans, strict=True)])
        return workers

    def signal(self, worker: Worker, number: int, reach: Reach = "tree") -> None:
        self.processes.signal("g", [worker], number, reach)

    def of(self, kind: type[Some], worker: Worker | None = None) -> list[Some]:
        return [item for item in self.story if isinstance(item, kind) and worker in {None, item.worker}]

    async def until(self, kind: type[Some], worker: Worker | None = None, count: int = 1) -> Some:
        async with asyncio.timeout(45):
            while len(found := self.of(kind, worker)) < count:
                self._news.clear()
                await self._news.wait()
        return found[count - 1]

    async def started(self, *argv: str, **otherwise: object) -> tuple[Worker, int]:
        (worker,) = self.ask(self.plan(*argv, **otherwise))
        return worker, (await self.until(WorkerStarted, worker)).pid

    async def ended(self, *argv: str, **otherwise: object) -> ExitStatus:
        worker, _ = await self.started(*argv, **otherwise)
        await self.until(WorkerGone, worker)
        return (await self.until(WorkerExited, worker)).status

    async def refused(self, *argv: str, **otherwise: object) -> WorkerNotStarted:
        (worker,) = self.ask(self.plan(*argv, **otherwise))
        return await self.until(WorkerNotStarted, worker)

    async def close(self) -> None:
        for worker in {item.worker for item in self.of(WorkerStarted)} - {item.worker for item in self.of(WorkerGone)}:
            self.signal(worker, signal.SIGKILL)
            await self.until(WorkerGone, worker)
        self._run.cancel()
        self.processes.close()
        os.close(self._null)


def python(script: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", textwrap.dedent(script))


def pids_in(path: Path, count: int) -> Callable[[], list[int]]:
    def read() -> list[int]:
        words = path.read_text().split() if path.exists() else []
        return [int(word) for word in words] if len(words) >= count else []

    return read


async def eventually(what: Callable[[], list[int]]) -> list[int]:
    """For what happens in processes that tell us nothing: asked for again each turn of the loop."""
    async with asyncio.timeout(45):
        while not (answer := what()):
            await asyncio.sleep(0)
    return answer


def state(pid: int) -> str:
    process = read_process(pid)
    assert process
    return process.state


def fds() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


@pytest.fixture
async def host(tmp_path: Path) -> Iterator[Host]:  # type: ignore[misc]
    become_subreaper()
    host = Host(tmp_path, adopts=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, host.processes.on_sigchld)
    yield host
    await host.close()
    asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


DAEMON = """
    import os, signal, sys, time
    path = sys.argv[1]
    if os.fork() == 0:          # twice, and out of the session: nothing but the mark is left
        os.setsid()
        if os.fork() == 0:
            with open(path + ".new", "w") as file:
                file.write(str(os.getpid()))
            os.rename(path + ".new", path)
            time.sleep(100)
        os._exit(0)
    os.wait()
    while not os.path.exists(path):
        time.sleep(0.001)
"""


# ---- how a worker ends


@pytest.mark.parametrize("code", [0, 3, 138, 255])
async def test_an_exit_code_is_told_as_it_was(host: Host, code: int) -> None:
    status = await host.ended("sh", "-c", f"exit {code}")
    assert (status.code, status.signal, status.core_dumped) == (code, None, False)


async def test_what_a_worker_used_is_its_own(host: Host) -> None:
    status = await host.ended(*python("x = bytearray(80 << 20); import time\nwhile time.process_time() < 0.1: pass"))
    assert 80 << 20 < status.max_rss_bytes < 1 << 30
    assert 0.09 < status.user_cpu_s + status.system_cpu_s < 2


async def test_a_signal_is_told_by_its_number(host: Host) -> None:
    assert await host.ended("sh", "-c", "ulimit -c 0; kill -SEGV $$") == replace(
        host.of(WorkerExited)[0].status, code=None, signal=signal.SIGSEGV, core_dumped=False
    )


async def test_a_core_dump_is_told(host: Host, tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core dumps are forbidden here: raise the hard limit (ulimit -Hc)")
    status = await host.ended("sh", "-c", "ulimit -c $(ulimit -Hc); kill -ABRT $$", cwd=str(tmp_path))
    assert (status.signal, status.core_dumped) == (signal.SIGABRT, True)


async def test_a_program_that_replaces_itself_is_the_same_worker(host: Host) -> None:
    assert (await host.ended("sh", "-c", "exec sh -c 'exit 7'")).code == 7


async def test_output_is_read_before_the_end_is_told_and_closed_before_it_is_gone(host: Host) -> None:
    await host.ended("true")
    names = [item if isinstance(item, str) else type(item).__name__ for item in host.story]
    assert names == ["started", "WorkerStarted", "drain", "WorkerExited", "close", "WorkerGone"]


async def test_a_status_that_somebody_else_took_is_told_as_255(host: Host) -> None:
    (worker,) = host.ask(host.plan("sleep", "100"))
    pid = (await host.until(WorkerStarted)).pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (await host.until(WorkerExited, worker)).status == ExitStatus(255)
    await host.until(WorkerGone, worker)


async def test_a_worker_held_by_a_debugger_is_told_when_it_lets_go(host: Host) -> None:
    worker, pid = await host.started(
        *python("import ctypes, time; ctypes.CDLL(None).prctl(0x59616d61, -1)\ntime.sleep(99)")
    )
    debugger = subprocess.Popen(
        python(f"""
            import ctypes, os, signal, sys
            libc = ctypes.CDLL(None, use_errno=True)
            while libc.ptrace(0x4206, {pid}, None, None):           # PTRACE_SEIZE
                pass
            os.kill({pid}, signal.SIGKILL)
            os.waitid(os.P_PID, {pid}, os.WEXITED | os.WNOWAIT)     # it has ended, and this process holds on to it
            print("held", flush=True)
            sys.stdin.read(1)
        """),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with debugger:
        assert debugger.stdin
        assert debugger.stdout
        assert debugger.stdout.readline() == b"held\n"
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1

        asyncio.get_running_loop().call_later(0.2, turn)
        await eventually(lambda: [turns] * turns)
        assert not host.of(WorkerExited)
        debugger.stdin.close()
    assert (await host.until(WorkerExited, worker)).status.signal == signal.SIGKILL


# ---- what a worker is given


@pytest.mark.parametrize("cwd", ["", "/"], ids=["from here", "from its directory"])
async def test_a_worker_leads_a_session_with_three_descriptors_and_default_signals(
    host: Host, tmp_path: Path, cwd: str
) -> None:
    leaked = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    seal_inherited_fds()
    out = tmp_path / "seen"
    script = """
        import os, sys
        fds = sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name))
        open(sys.argv[1], "a").write(repr((
            os.getsid(0) == os.getpgid(0) == os.getpid(), fds, os.environ["RANKD_TREE"].count("."), os.environ["RANK"],
            os.getcwd(),
        )))
    """
    first_signals = f'grep -E "^Sig(Ign|Blk)" /proc/self/status > {out}; exec "$@"'  # Python itself ignores some
    env = {"PATH": PATH, "RANK": "5"}
    await host.ended("sh", "-c", first_signals, "sh", *python(script), str(out), env=env, cwd=cwd)
    os.close(leaked)
    blocked, ignored, seen = out.read_text().splitlines()
    assert int(blocked.split()[1], 16) == 0
    assert int(ignored.split()[1], 16) & 0x7FFFFFFF == 0  # glibc's posix_spawn ignores its own two, 32 and 33
    assert seen == repr((True, [0, 1, 2], 1, "5", cwd or os.getcwd()))


async def test_the_mark_of_an_outer_supervisor_is_kept(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, "outer.1")
    inner = Host(tmp_path, adopts=True)
    out = tmp_path / "mark"
    await inner.ended("sh", "-c", f"echo ${MARK} > {out}")
    await inner.close()
    assert out.read_text().startswith("outer.1/")


async def test_umask_and_directory_are_the_plans(host: Host, tmp_path: Path) -> None:
    await host.ended("sh", "-c", "touch made", cwd=str(tmp_path), umask=0o077)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root to see users switched")
async def test_a_worker_runs_as_its_user_and_owns_its_directory(host: Host) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        os.chmod(open_to_all, 0o755)
        directory = Path(open_to_all) / "w"
        program = ("sh", "-c", "id -un > id && id -G >> id && pwd >> id")
        directory.mkdir()
        status = await host.ended(*program, user="nobody", cwd=str(directory), directory=str(directory))
        assert status.code == 0
        name, groups, where = (directory / "id").read_text().splitlines()
        assert (name, where) == ("nobody", str(directory))
        assert "0" not in groups.split()
        assert directory.owner() == "nobody"


# ---- what a worker leaves behind


async def test_children_of_a_crashed_worker_are_named_and_reached(host: Host, tmp_path: Path) -> None:
    out = tmp_path / "pids"
    worker, _ = await host.started("sh", "-c", f"sleep 100 & sleep 100 & echo $! > {out}; kill -SEGV $$")
    assert (await host.until(WorkerExited)).status.signal == signal.SIGSEGV
    strays = await host.until(StraysFound)
    assert [name.split()[1] for name in strays.processes] == ["sleep", "sleep"]
    assert not host.of(WorkerGone)
    host.signal(worker, signal.SIGTERM)
    await host.until(WorkerGone)
    assert not os.path.exists(f"/proc/{out.read_text().strip()}")
    assert len(host.of(StraysFound)) == 1


@pytest.mark.parametrize("reach", ["tree", "group", "leader"])
async def test_a_double_forked_daemon_outlives_its_worker_and_is_reached_by_any_signal(
    host: Host, tmp_path: Path, reach: Reach
) -> None:
    worker, _ = await host.started(*python(DAEMON), str(tmp_path / "pid"))
    (pid,) = await eventually(pids_in(tmp_path / "pid", 1))
    strays = await host.until(StraysFound)
    assert [name.split()[0] for name in strays.processes] == [str(pid)]
    assert not host.of(WorkerGone)
    host.signal(worker, signal.SIGTERM, reach)
    await host.until(WorkerGone)
    assert not os.path.exists(f"/proc/{pid}")


async def test_a_double_forked_daemon_is_stopped_with_its_living_worker(host: Host, tmp_path: Path) -> None:
    worker, _ = await host.started(*python(textwrap.dedent(DAEMON) + "time.sleep(100)"), str(tmp_path / "pid"))
    (pid,) = await eventually(pids_in(tmp_path / "pid", 1))
    host.signal(worker, signal.SIGTERM)
    await host.until(WorkerGone)
    assert not os.path.exists(f"/proc/{pid}")


async def test_a_daemon_without_the_mark_in_the_workers_session_is_found(host: Host, tmp_path: Path) -> None:
    out = tmp_path / "pid"
    worker, _ = await host.started("sh", "-c", f"(env -i sleep 100 & echo $! > {out}); exit 0")
    await host.until(StraysFound)
    host.signal(worker, signal.SIGKILL)
    await host.until(WorkerGone)
    assert not os.path.exists(f"/proc/{out.read_text().strip()}")


async def test_what_ends_by_itself_in_time_is_no_stray(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "GRACE", 20.0)
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    await host.started("sh", "-c", f"(read line < {fifo}) & exit 0")
    await host.until(WorkerExited)
    with open(fifo, "w", encoding="ascii") as file:
        file.write("go\n")
    await host.until(WorkerGone)
    assert not host.of(StraysFound)


async def test_a_process_that_appears_after_the_kill_is_killed_too(host: Host, tmp_path: Path) -> None:
    hopper = """
        import os, sys, time
        until = time.monotonic() + 15
        open(sys.argv[1], "w").close()
        while time.monotonic() < until:     # somebody else every 2 ms, each time an orphan in a session of its own
            if os.fork():
                os._exit(0)
            os.setsid()
            time.sleep(0.002)
    """
    started = tmp_path / "started"
    worker, _ = await host.started("sh", "-c", '"$@" & wait; sleep 100', "sh", *python(hopper), str(started))
    await eventually(lambda: [1] if started.exists() else [])
    host.signal(worker, signal.SIGKILL)
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    await host.until(WorkerGone)
    assert loop.time() - began_at < 10


async def test_after_a_kill_whatever_is_still_found_is_killed(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = await host.started(*python(textwrap.dedent(DAEMON) + "time.sleep(100)"), str(tmp_path / "pid"))
    await eventually(pids_in(tmp_path / "pid", 1))
    monkeypatch.setattr(host.containment, "pursue", lambda *_: iter(()))  # as if it had been too quick for that
    host.signal(worker, signal.SIGKILL)
    await host.until(WorkerGone)


async def test_a_stray_that_is_stopped_dies_of_sigterm(host: Host, tmp_path: Path) -> None:
    worker, _ = await host.started(*python(DAEMON), str(tmp_path / "pid"))
    (pid,) = await eventually(pids_in(tmp_path / "pid", 1))
    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: [1] if state(pid) == "T" else [])
    await host.until(StraysFound)
    host.signal(worker, signal.SIGTERM)
    await host.until(WorkerGone)


async def test_nobody_is_declared_gone_while_proc_cannot_be_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    look = host.containment.left
    failures = [errno.EMFILE, errno.ENFILE, errno.ENOMEM]
    gone: list[int] = []

    def short_of_descriptors(ended: Collection[Tree]) -> dict[Tree, list[Process]]:
        gone.append(len(host.of(WorkerGone)))
        if ended and failures:
            raise OSError(failures.pop(), "short of it")
        return look(ended)

    monkeypatch.setattr(host.containment, "left", short_of_descriptors)
    await host.ended("true")
    assert not failures
    assert set(gone) == {0}


@pytest.mark.parametrize("looks_for", [0.05, 0.0005])
async def test_hundreds_of_adopted_zombies_are_reaped_while_the_worker_lives(
    host: Host, tmp_path: Path, looks_for: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a look has no time for all of them, and nobody ends any more who would lead to another."""
    monkeypatch.setattr(containment, "_LOOKS_FOR", looks_for)
    script = """
        import os, sys, time
        if os.fork() == 0:
            for _ in range(300):
                if os.fork() == 0:
                    os._exit(0)
            os._exit(0)
        os.wait()
        open(sys.argv[1], "w").close()
        time.sleep(100)
    """

    def children() -> set[int]:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return set(map(int, file.read().split()))

    done = tmp_path / "done"
    others = children()  # of other tests, which last longer
    _, pid = await host.started(*python(script), str(done))
    await eventually(lambda: [1] if done.exists() else [])
    await eventually(lambda: [1] if children() - others == {pid} else [])
    assert not host.unclaimed


async def test_an_orphan_of_nobody_is_reaped_and_reported_once(host: Host) -> None:
    made = subprocess.run(
        ["setsid", "--wait", "sh", "-c", "sleep 100 >&- 2>&- & echo $!"], capture_output=True, check=True
    )  # fmt: skip
    pid = int(made.stdout)
    await host.ended("true")
    await eventually(lambda: [process.pid for process in host.unclaimed if process.pid == pid])
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: [] if os.path.exists(f"/proc/{pid}") else [1])
    assert [process.pid for process in host.unclaimed].count(pid) == 1


async def test_statuses_of_other_children_are_left_to_who_started_them(host: Host) -> None:
    ours = subprocess.Popen(["sh", "-c", "exit 3"])
    apart = subprocess.Popen(["sh", "-c", "exit 4"], start_new_session=True)
    host.containment.leave_alone(apart.pid)
    for child in (ours, apart):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    await host.ended("true")
    await host.ended("true")
    assert (ours.wait(), apart.wait()) == (3, 4)
    assert not host.unclaimed


# ---- signals


async def test_a_worker_that_ignores_sigterm_is_killed_by_sigkill(host: Host) -> None:
    worker, pid = await host.started("sh", "-c", "trap '' TERM; kill -STOP $$; while :; do sleep 100; done")
    await eventually(lambda: [1] if state(pid) == "T" else [])
    host.signal(worker, signal.SIGTERM)
    await eventually(lambda: [1] if state(pid) != "T" else [])
    assert not host.of(WorkerExited)
    host.signal(worker, signal.SIGKILL)
    assert (await host.until(WorkerExited)).status.signal == signal.SIGKILL
    await host.until(WorkerGone)


@pytest.mark.parametrize("reach", ["tree", "group", "leader"])
async def test_a_worker_that_stopped_itself_dies_of_sigterm(host: Host, reach: Reach) -> None:
    worker, pid = await host.started("sh", "-c", "kill -STOP $$")
    await eventually(lambda: [1] if state(pid) == "T" else [])
    host.signal(worker, signal.SIGTERM, reach)
    assert (await host.until(WorkerExited)).status.signal == signal.SIGTERM


async def test_sigstop_is_not_undone(host: Host) -> None:
    worker, pid = await host.started("sleep", "100")
    host.signal(worker, signal.SIGSTOP)
    await eventually(lambda: [1] if state(pid) == "T" else [])
    assert not host.of(WorkerExited)


async def test_each_reach_ends_where_it_says(host: Host, tmp_path: Path) -> None:
    """A worker with one child in its group and one in a session of its own, each of which notes the SIGUSR1 it gets."""
    script = """
        import os, signal, sys, time
        def note(number, frame, who=["leader"]):
            os.write(out, (who[0] + "\\n").encode())
        out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        signal.signal(signal.SIGUSR1, note)
        for who in ("child", "apart"):
            if os.fork() == 0:
                note.__defaults__[0][0] = who
                if who == "apart":
                    os.setsid()
                os.write(out, b"ready\\n")
                while True:
                    signal.pause()
        while True:
            signal.pause()
    """
    out = tmp_path / "heard"
    worker, _ = await host.started(*python(script), str(out))

    def heard(count: int) -> Callable[[], list[int]]:
        return lambda: [1] if out.exists() and len(out.read_text().split()) >= count else []

    await eventually(heard(2))
    reaches: list[tuple[Reach, list[str]]] = [
        ("leader", ["leader"]), ("group", ["child", "leader"]), ("tree", ["apart", "child", "leader"])
    ]  # fmt: skip
    for reach, expected in reaches:
        out.write_text("")
        host.signal(worker, signal.SIGUSR1, reach)
        await eventually(heard(len(expected)))
        assert sorted(out.read_text().split()) == expected


async def test_signals_to_workers_that_are_gone_or_never_were_go_nowhere(host: Host) -> None:
    await host.ended("true")
    host.signal(host.of(WorkerGone)[0].worker, signal.SIGKILL)
    host.signal(Worker(77, 0), signal.SIGKILL)
    assert (await host.ended("true")).code == 0


async def test_others_are_served_while_a_crowd_is_signalled(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd that wakes to die takes the processors, and what is sent at a stretch takes as long as they let us."""
    workers = host.ask(*[host.plan("sleep", "100") for _ in range(3)])
    await host.until(WorkerStarted, count=3)
    monkeypatch.setattr(under_test, "SLICE", 0.0)
    turns = 0
    sent: list[int] = []
    killpg = os.killpg

    def noted(pid: int, number: int) -> None:
        if number == signal.SIGTERM:
            sent.append(turns)
        killpg(pid, number)

    monkeypatch.setattr(os, "killpg", noted)
    host.processes.signal("g", workers, signal.SIGTERM, "tree")
    while len(host.of(WorkerGone)) < 3:
        await asyncio.sleep(0)
        turns += 1
    assert sent[0] == 0, "the first at once"
    assert [later - earlier >= under_test.TURNS - 1 for earlier, later in pairwise(sent)] == [True, True], sent


async def test_each_of_many_has_its_signal_before_the_first_is_continued(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = host.ask(*[host.plan("sleep", "100") for _ in range(3)])
    await host.until(WorkerStarted, count=3)
    pids = [item.pid for item in host.of(WorkerStarted)]
    order: list[object] = []
    killpg = os.killpg

    def noted(pid: int, number: int) -> None:
        order.append((pid, signal.Signals(number).name))
        killpg(pid, number)

    monkeypatch.setattr(os, "killpg", noted)
    monkeypatch.setattr(under_test, "SLICE", 60.0)
    host.processes.signal("g", workers, signal.SIGTERM, "tree")
    assert order == [(pid, name) for name in ("SIGTERM", "SIGCONT") for pid in pids]
    await host.until(WorkerGone, count=3)
    assert {item.status.signal for item in host.of(WorkerExited)} == {signal.SIGTERM}


# ---- starting many


async def test_abandoned_starts_are_answered_once_and_at_once_and_no_more_are_started(host: Host) -> None:
    workers = host.ask(*[host.plan("sleep", "100") for _ in range(200)])
    await host.until(WorkerStarted, count=3)
    host.processes.abandon("g")
    started, refused = host.of(WorkerStarted), host.of(WorkerNotStarted)
    assert len(started) < 200
    assert {item.fault for item in refused} == {"abandoned"}
    answered = [item.worker for item in started] + [item.worker for item in refused]
    assert sorted(worker.rank for worker in answered) == list(range(200))
    await host.processes.idle.wait()
    assert host.of(WorkerStarted) == started
    host.processes.signal("g", workers, signal.SIGKILL, "tree")
    await host.until(WorkerGone, count=len(started))


async def test_abandoning_spares_other_groups(host: Host) -> None:
    host.ask(host.plan("sh", "-c", "exit 1"))
    host.processes.abandon("another")
    await host.until(WorkerGone)


async def test_others_are_served_while_many_start_and_idle_says_when_it_is_over(host: Host) -> None:
    await host.processes.idle.wait()
    host.ask(*[host.plan("true") for _ in range(100)])
    assert not host.processes.idle.is_set()
    turns = 0
    while not host.processes.idle.is_set():
        turns += 1
        await asyncio.sleep(0)
    assert len(host.of(WorkerStarted)) == 100
    assert turns >= 5
    await host.until(WorkerGone, count=100)


async def test_three_hundred_that_end_in_a_burst_are_told_once_each_and_leave_no_descriptor(host: Host) -> None:
    await host.processes.idle.wait()
    before = fds()
    workers = host.ask(*[host.plan("sleep", "100") for _ in range(300)])
    await host.until(WorkerStarted, count=300)
    assert len(fds() - before) == 300
    host.processes.signal("g", workers, signal.SIGTERM, "tree")
    await host.until(WorkerGone, count=300)
    for kind in (WorkerStarted, WorkerExited, WorkerGone):
        assert sorted(item.worker.rank for item in host.of(kind)) == list(range(300))
    for worker in workers:
        mine = [type(item) for item in host.story if not isinstance(item, str) and item.worker == worker]
        assert mine == [WorkerStarted, WorkerExited, WorkerGone]
    assert fds() == before


async def test_ends_are_told_in_the_order_in_which_they_happened(host: Host) -> None:
    workers = host.ask(*[host.plan("sleep", "100") for _ in range(40)])
    await host.until(WorkerStarted, count=40)
    order = workers[::3] + workers[1::3] + workers[2::3]
    pids = {item.worker: item.pid for item in host.of(WorkerStarted)}
    for worker in order:
        os.kill(pids[worker], signal.SIGKILL)
        os.waitid(os.P_PID, pids[worker], os.WEXITED | os.WNOWAIT)
    await host.until(WorkerGone, count=40)
    assert [item.worker for item in host.of(WorkerExited)] == order


async def test_workers_are_left_alone_when_nobody_watches_any_more(tmp_path: Path) -> None:
    host = Host(tmp_path, adopts=False)
    _, pid = await host.started("sleep", "100")
    before = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in fds()}
    host.processes.close()
    closed = [before[fd] for fd in before.keys() - fds()]
    assert len(set(closed) - {KERNEL_LOG}) == 3, closed  # its pidfd, the epoll, and the directory that we are in
    process = read_process(pid)
    assert process
    assert process.state != "Z"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    host.story.clear()
    host.processes = Processes(host._post, host, host.containment)
    await host.close()


# ---- a library in somebody else's process: orphans do not come to us


async def test_without_adoption_strays_are_found_by_their_session(tmp_path: Path) -> None:
    host = Host(tmp_path, adopts=False)
    out = tmp_path / "pid"
    worker, _ = await host.started("sh", "-c", f"(sleep 100 & echo $! > {out}); exit 0")
    assert (await host.until(StraysFound)).processes == (f"{out.read_text().strip()} sleep",)
    assert not host.of(WorkerGone)
    host.signal(worker, signal.SIGTERM)
    await host.until(WorkerGone)
    await host.close()


async def test_without_adoption_what_has_left_its_session_is_found_by_its_mark(tmp_path: Path) -> None:
    host = Host(tmp_path, adopts=False)
    out = tmp_path / "pid"
    worker, _ = await host.started(
        "sh", "-c", f"setsid sh -c 'echo $$ > {out}; exec sleep 100' & until [ -s {out} ]; do :; done"
    )
    assert (await host.until(StraysFound)).processes == (f"{out.read_text().strip()} sleep",)
    assert not host.of(WorkerGone)
    host.signal(worker, signal.SIGTERM)
    await host.until(WorkerGone)
    await host.close()


# ---- what keeps a worker from starting


async def test_a_plan_that_cannot_be_made_is_a_permanent_fault(host: Host) -> None:
    def plan() -> WorkerPlan:
        raise ValueError("virtual_local_rank: local rank 3 has no device")

    host.processes.enqueue("g", [(Worker(3, 1), plan)])
    assert await host.until(WorkerNotStarted) == WorkerNotStarted(
        Worker(3, 1), "permanent", "virtual_local_rank: local rank 3 has no device", 126
    )


async def test_a_shortage_of_processes_is_transient_and_leaks_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.processes.idle.wait()
    before = fds()

    def no_process(*_: object, **__: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "posix_spawn", no_process)
    refusal = await host.refused("true")
    assert (refusal.fault, refusal.reason) == (
        "transient", "'/usr/bin/true' cannot be started now: Resource temporarily unavailable"
    )  # fmt: skip
    assert host.story[0] == "abort"
    assert fds() == before
    monkeypatch.undo()
    assert (await host.ended("true")).code == 0


async def test_a_worker_that_cannot_be_watched_is_not_left_running(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    await host.processes.idle.wait()
    before = fds()

    def no_descriptor(pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_descriptor)
    refusal = await host.refused("sleep", "100")
    assert (refusal.fault, refusal.reason) == ("transient", "'sleep' cannot be watched: Too many open files")
    assert host.story[0] == "abort"
    assert fds() == before  # and the fixture sees that no process is left


async def test_output_that_cannot_be_opened_is_one_clear_sentence(host: Host, tmp_path: Path) -> None:
    (tmp_path / "w").write_text("in the way")
    refusal = await host.refused("true")
    assert (refusal.fault, refusal.exit_code) == ("permanent", 126)
    assert refusal.reason == f"cannot make the worker's directory '{tmp_path}/w': File exists"


EXHAUSTED = """
import asyncio, os, resource, signal, sys
from supervisor.core.messages import Worker, WorkerExited, WorkerGone, WorkerNotStarted, WorkerStarted
from supervisor.host.containment import Sessions, become_subreaper
from supervisor.host.process import Processes
from supervisor.plan import LogRules, WorkerPlan

class Door:
    def attach(self, plan):
        return self
    stdin = stdout = stderr = os.open(os.devnull, os.O_RDWR)
    def started(self, pid): pass
    abort = drain = close = lambda self: None
    def stderr_tail(self): return ""

async def main():
    story, news = [], asyncio.Event()
    def post(group, input):
        story.append(input)
        news.set()
    def of(kind):
        return [item for item in story if isinstance(item, kind)]
    async def until(test):
        while not test():
            news.clear()
            await news.wait()
    become_subreaper()
    processes = Processes(post, Door(), Sessions(adopts=True, unclaimed=lambda process: None))
    task = asyncio.create_task(processes.run())
    await asyncio.sleep(0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, processes.on_sigchld)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 10, before + 10))
    plan = WorkerPlan(("sh", "-c", "sleep 100 & wait"), dict(os.environ), sys.argv[1], "/", LogRules("/"), 0, {})
    workers = [Worker(rank, 0) for rank in range(40)]
    processes.enqueue("g", [(worker, lambda: plan) for worker in workers])
    await until(lambda: len(of(WorkerStarted)) + len(of(WorkerNotStarted)) == 40)
    faults = {item.fault for item in of(WorkerNotStarted)}
    print(len(of(WorkerStarted)) > 5, faults)
    processes.signal("g", [of(WorkerStarted)[0].worker], signal.SIGKILL, "leader")     # leaves a stray behind
    await until(lambda: of(WorkerExited))
    processes.signal("g", workers, signal.SIGTERM, "tree")
    await until(lambda: len(of(WorkerGone)) == len(of(WorkerStarted)))
    print(len(os.listdir("/proc/self/fd")) - before)
    task.cancel()

asyncio.run(main())
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no child")
"""


@pytest.mark.parametrize("cwd", ["", "/"], ids=["from here", "from its directory"])
async def test_a_shortage_of_descriptors_is_transient_and_leaks_neither_process_nor_descriptor(cwd: str) -> None:
    root = Path(under_test.__file__).parents[2]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", EXHAUSTED, cwd],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=root,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True {'transient'}\n0\nno child\n", "")


async def test_strays_that_have_ended_before_they_are_named_are_not_told_of(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = host.containment.members
    asked: list[object] = []

    def too_late(trees: Collection[Tree]) -> Generator[None, None, dict[Tree, list[Process]]]:
        found = yield from members(trees)
        asked.append(found)
        for process in (one for them in found.values() for one in them):
            send(process, signal.SIGKILL)
        return {}

    monkeypatch.setattr(host.containment, "members", too_late)
    await host.started("sh", "-c", "sleep 1000 & exit 0")
    await host.until(WorkerGone)
    assert len(asked) == 1
    assert not host.of(StraysFound)


# ---- what a worker leaves behind about its own failure


def failing(path: Path, how: str) -> tuple[str, ...]:
    """A worker that writes an error file and then ends so."""
    return python(f"""
        import os, signal, sys, time
        open({str(path)!r}, "w").write('{{"message": "it broke", "timestamp": 7}}')
        {how}
        """)


@pytest.mark.parametrize("how", ["sys.exit(3)", "os.kill(os.getpid(), signal.SIGSEGV)"])
async def test_the_error_file_of_a_worker_that_failed_comes_with_its_end(host: Host, how: str) -> None:
    path = host.directory / "error.json"
    worker, _ = await host.started(*failing(path, how), env={"PATH": PATH, "TORCHELASTIC_ERROR_FILE": str(path)})
    ended = await host.until(WorkerExited, worker)
    assert ended.error == ErrorReport("it broke", timestamp=7)
    assert ended.unasked


async def test_a_worker_that_succeeds_or_is_stopped_has_no_error(host: Host) -> None:
    path = host.directory / "error.json"
    env = {"PATH": PATH, "TORCHELASTIC_ERROR_FILE": str(path)}
    worker, _ = await host.started(*failing(path, "sys.exit(0)"), env=env)
    ended = await host.until(WorkerExited, worker)
    assert (ended.error, ended.unasked) == (None, True)
    worker, _ = await host.started("sleep", "100", env=env)
    host.signal(worker, signal.SIGTERM)
    ended = await host.until(WorkerExited, worker)
    assert (ended.error, ended.unasked) == (None, False)


async def test_a_peer_that_was_dead_before_our_signal_has_ended_by_itself(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two die at about the same time. The first leads us to stop all others, and the second is dead already."""
    workers = host.ask(*[host.plan("sleep", "100") for _ in range(3)])
    pids = {item.worker: item.pid for item in [await host.until(WorkerStarted, worker) for worker in workers]}
    post = host._post

    def stop_the_others(group: str, input: Input) -> None:
        if isinstance(input, WorkerExited) and not host.of(WorkerExited):
            host.processes.signal("g", workers, signal.SIGTERM, "tree")
        post(group, input)

    monkeypatch.setattr(host.processes, "_post", stop_the_others)
    for worker in workers[:2]:
        os.kill(pids[worker], signal.SIGKILL)
        os.waitid(os.P_PID, pids[worker], os.WEXITED | os.WNOWAIT)
    await host.until(WorkerGone, count=3)
    ends = {item.worker: (item.unasked, item.status.signal) for item in host.of(WorkerExited)}
    assert [ends[worker] for worker in workers] == [
        (True, signal.SIGKILL), (True, signal.SIGKILL), (False, signal.SIGTERM)
    ]  # fmt: skip
