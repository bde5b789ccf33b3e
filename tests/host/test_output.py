"""Nothing that a worker writes is lost, torn or waited for: real workers, pipes, files and consoles."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from supervisor.host.console import Console
from supervisor.host.output import Attached, Output
from supervisor.host.sinks import Dropped
from supervisor.plan import LogRules, Streams, WorkerPlan
from tests.host.observing import open_fds, until

TEE = Streams(3)
NONE = Streams(0)


class Worker:
    """A process with its output attached."""

    def __init__(
        self, attached: Attached, process: subprocess.Popen[bytes], directory: Path, settle: Callable[[], None]
    ) -> None:
        self.attached = attached
        self.settle = settle
        self.process = process
        self.directory = directory

    async def ended(self) -> None:
        """The worker's own process has ended; its output is as it may be."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            with anyio.fail_after(40):
                await anyio.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        self.process.wait()

    async def done(self) -> None:
        await self.ended()
        self.attached.close()
        self.settle()

    @property
    def out(self) -> bytes:
        return (self.directory / "stdout.log").read_bytes()

    @property
    def err(self) -> bytes:
        return (self.directory / "stderr.log").read_bytes()


class Host:
    """One ``Output`` whose consoles are files that can be looked into."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = os.memfd_create("console_out"), os.memfd_create("console_err")
        self.consoles = Console(self.files[0]), Console(self.files[1])
        self.told: list[Dropped] = []
        self.output = Output(*self.consoles, inherited=self.files, on_dropped=self.told.append)
        self.workers: list[Worker] = []

    def plan(self, rank: int = 0, **rules: object) -> WorkerPlan:
        return WorkerPlan(
            argv=("worker",),
            env={},
            cwd="",
            directory=str(self.directory / "trainer" / "run" / "attempt_1" / str(rank)),
            logs=LogRules(dir=str(self.directory), **rules),  # type: ignore[arg-type]
            local_rank=rank,
            labels={
                "group": "trainer", "role_name": "train", "rank": str(rank + 8), "local_rank": str(rank), "attempt": "1"
            },
        )  # fmt: skip

    def start(self, argv: list[str], rank: int = 0, output: Output | None = None, **rules: object) -> Worker:
        plan = self.plan(rank, **rules)
        attached = (output or self.output).attach(plan)
        process = subprocess.Popen(
            argv, stdin=attached.stdin, stdout=attached.stdout, stderr=attached.stderr, start_new_session=True
        )
        attached.started(process.pid)
        settle = partial(self.settle, output or self.output)
        self.workers.append(Worker(attached, process, Path(plan.directory), settle))
        return self.workers[-1]

    def python(self, program: str, rank: int = 0, output: Output | None = None, **rules: object) -> Worker:
        return self.start([sys.executable, "-S", "-c", program], rank, output, **rules)

    def shell(self, program: str, rank: int = 0, output: Output | None = None, **rules: object) -> Worker:
        return self.start(["/bin/sh", "-c", program], rank, output, **rules)

    def settle(self, output: Output) -> None:
        """What was handed to the disks is written."""
        for disk in output._disks.values():
            while not disk.settle(10):
                pass  # a call that has been waited for in vain
        for console in self.consoles:
            console.settle()

    def console(self, stream: int = 0) -> bytes:
        return os.pread(self.files[stream], 1 << 28, 0)

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
            worker.attached.close()
        self.output.close()
        for console, file in zip(self.consoles, self.files, strict=True):
            console.close()
            os.close(file)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


# ---- where streams go


async def test_a_teed_stream_is_in_its_file_as_written_and_on_its_console_with_a_prefix(host: Host) -> None:
    worker = host.shell("echo one; echo two; echo three >&2")
    await worker.done()
    assert (worker.out, worker.err) == (b"one\ntwo\n", b"three\n")
    assert host.console(0) == b"[train0]:one\n[train0]:two\n"
    assert host.console(1) == b"[train0]:three\n"
    assert host.output.log_bytes == {("trainer", "stdout"): 8, ("trainer", "stderr"): 6}
    assert host.output.log_dropped_bytes == {}


async def test_the_prefix_knows_the_labels_and_the_pid_and_leaves_unknown_names(host: Host) -> None:
    prefix = "${group}/${role_name} ${rank} ${local_rank} ${attempt} ${pid} ${other}|"
    worker = host.shell("echo hi", rank=12, prefix=prefix)
    await worker.done()
    assert host.console() == b"trainer/train 20 12 1 %d ${other}|hi\n" % worker.process.pid


async def test_the_last_line_needs_no_newline_and_bytes_are_not_text(host: Host) -> None:
    worker = host.python("import os; os.write(1, bytes(range(256)) * 3 + b'\\xff\\xfe last')")
    await worker.done()
    written = bytes(range(256)) * 3 + b"\xff\xfe last"
    assert worker.out == written
    assert host.console() == b"[train0]:" + written.replace(b"\n", b"\n[train0]:") + b"\n"


def test_a_redirected_stream_is_the_file_itself_and_the_loop_knows_nothing_of_it(host: Host) -> None:
    """There is no loop at all here."""
    worker = host.shell("echo one; echo two >&2", redirects=Streams(3), tee=NONE)
    worker.process.wait()
    assert (worker.out, worker.err) == (b"one\n", b"two\n")
    assert host.output.log_bytes == {}
    assert host.console() == b""


def test_a_teed_stream_without_a_console_is_the_file_itself(host: Host) -> None:
    output = Output(None, None)
    worker = host.shell("echo one; echo two >&2", output=output)
    worker.process.wait()
    assert (worker.out, worker.err) == (b"one\n", b"two\n")
    output.close()


async def test_each_stream_goes_where_its_own_bit_says(host: Host) -> None:
    worker = host.shell("echo one; echo two >&2", rank=1, redirects=Streams(0, {1: 1}), tee=Streams(3, {1: 2}))
    await worker.done()
    assert (worker.out, worker.err) == (b"one\n", b"two\n")
    assert (host.console(0), host.console(1)) == (b"", b"[train1]:two\n")


def test_a_stream_without_a_file_is_the_daemons_own_and_its_directory_is_there_all_the_same(host: Host) -> None:
    worker = host.shell("echo one; echo two >&2", redirects=NONE, tee=NONE)
    worker.process.wait()
    assert (host.console(0), host.console(1)) == (b"one\n", b"two\n")
    assert os.listdir(worker.directory) == []
    worker.attached.close()
    os.fstat(host.files[0])


async def test_a_rank_that_is_filtered_out_is_in_its_file_only_or_nowhere(host: Host) -> None:
    only = frozenset({1})
    teed = host.shell("echo teed", rank=0, local_ranks_filter=only)
    bare = host.shell("echo bare", rank=2, tee=NONE, local_ranks_filter=only)
    shown = host.shell("echo shown", rank=1, local_ranks_filter=only)
    for worker in (teed, bare, shown):
        await worker.done()
    assert teed.out == b"teed\n"
    assert host.console() == b"[train1]:shown\n"


def test_a_worker_reads_nothing_from_stdin(host: Host) -> None:
    worker = host.shell("cat; echo end", redirects=Streams(3), tee=NONE)
    worker.process.wait()
    assert worker.out == b"end\n"


def test_what_a_file_has_already_stays(host: Host) -> None:
    for _ in range(2):
        host.shell("echo again", redirects=Streams(3), tee=NONE).process.wait()
    worker = host.workers[-1]
    assert worker.out == b"again\nagain\n"
    assert stat.S_IMODE(os.stat(worker.directory / "stdout.log").st_mode) & 0o137 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as somebody else: run the tests as root")
def test_the_directory_belongs_to_whom_the_worker_runs_as(host: Host) -> None:
    plan = host.plan(tee=NONE)
    nobody = pwd.getpwnam("nobody")
    attached = host.output.attach(
        WorkerPlan(plan.argv, plan.env, "", plan.directory, plan.logs, 0, plan.labels, user="nobody")
    )
    attached.abort()
    assert os.stat(plan.directory).st_uid == nobody.pw_uid


# ---- lines


async def test_lines_of_many_ranks_stay_whole_and_in_order_on_a_console_that_takes_a_few_bytes_at_a_time(
    host: Host,
) -> None:
    """Eight writers whose writes end anywhere but at the end of a line, and a pipe that is read in small pieces."""
    program = """
import os, random
print("seed", seed := {rank}, flush=True)
chance = random.Random(seed)
data = b"".join(b"%d:%d:%s\\n" % ({rank}, n, b"x" * chance.randrange(300)) for n in range(3000))
while data:
    size = chance.randrange(1, 4000)
    os.write(1, data[:size])
    data = data[size:]
"""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    console = Console(writing, limit=1 << 26)
    output = Output(console, console)
    workers = [host.python(program.format(rank=rank), rank, output) for rank in range(8)]
    got = bytearray()
    chunk = 0

    def read() -> None:
        nonlocal chunk
        chunk = chunk % 5000 + 499
        got.extend(os.read(reading, chunk))

    loop = asyncio.get_running_loop()
    loop.add_reader(reading, read)
    for worker in workers:
        await worker.done()
    assert console.dropped_bytes == 0
    written = b"".join(worker.out for worker in workers)
    await until(lambda: len(got) == len(written) + written.count(b"\n") * len(b"[train0]:"))
    loop.remove_reader(reading)
    numbers: dict[int, int] = dict.fromkeys(range(8), 0)
    for line in bytes(got).removesuffix(b"\n").split(b"\n"):
        matched = re.fullmatch(rb"\[train(\d)\]:(?:seed \1|\1:(\d+):x*)", line)
        assert matched, line
        if matched[2] is not None:
            rank = int(matched[1])
            assert int(matched[2]) == numbers[rank]
            numbers[rank] += 1
    assert set(numbers.values()) == {3000}
    output.close()
    console.close()
    os.close(reading)
    os.close(writing)


async def test_one_write_a_line_loses_no_line(host: Host) -> None:
    worker = host.python("import os\nfor n in range(20000): os.write(1, b'line %d\\n' % n)")
    await worker.done()
    assert worker.out == b"".join(b"line %d\n" % n for n in range(20000))
    assert host.console() == b"".join(b"[train0]:line %d\n" % n for n in range(20000))


async def test_a_line_over_64_kib_is_split_and_marked_on_the_console_and_whole_in_the_file(host: Host) -> None:
    worker = host.python("print('x' * 150_000 + '\\nshort')")
    await worker.done()
    assert worker.out == b"x" * 150_000 + b"\nshort\n"
    part = b"[train0]:" + b"x" * 65536 + b" ...\n"
    rest = b"[train0]:" + b"x" * (150_000 - 2 * 65536) + b"\n"
    assert host.console() == part * 2 + rest + b"[train0]:short\n"


async def test_200_mb_without_a_newline_pass_in_bounded_memory_and_starve_nobody(host: Host, tmp_path: Path) -> None:
    size = 200_000_000
    go_ahead = tmp_path / "go_ahead"
    os.mkfifo(go_ahead)
    null = os.open(os.devnull, os.O_WRONLY)
    console = Console(null)
    output = Output(console, host.consoles[1])
    quiet = host.shell(f"read go < {go_ahead}; echo one >&2", 1, output)
    begin_peak()
    before = memory("VmRSS")
    flood = host.start(["head", "-c", str(size), "/dev/zero"], 0, output)
    await until(lambda: output.log_bytes)
    await anyio.to_thread.run_sync(go_ahead.write_text, "go\n")
    await until(lambda: host.console(1))
    assert output.log_bytes["trainer", "stdout"] < size, "the flood was over before the other was heard"
    await flood.done()
    await quiet.done()
    assert os.stat(flood.directory / "stdout.log").st_size == size
    assert output.log_bytes["trainer", "stdout"] == size
    assert host.console(1) == b"[train1]:one\n"
    assert console.dropped_bytes == 0
    assert memory("VmHWM") - before < 16 << 20
    os.unlink(flood.directory / "stdout.log")
    output.close()
    console.close()
    os.close(null)


def begin_peak() -> None:
    """The peak of our memory counts from here (proc_pid_clear_refs(5))."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory(name: str) -> int:
    """Bytes, from proc_pid_status(5)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


# ---- readers and disks that fail


async def test_a_console_that_nobody_reads_holds_up_no_worker_and_says_later_what_is_missing(host: Host) -> None:
    reading, writing = os.pipe()
    told: list[int] = []
    console = Console(
        writing, limit=200_000, mark=lambda missing: b"[%d bytes missing]\n" % missing, on_dropped=told.append
    )
    output = Output(console, console)
    data = b"".join(b"%06d %s\n" % (n, b"x" * 92) for n in range(50_000))
    worker = host.python("import os\nfor n in range(50000): os.write(1, b'%06d %s\\n' % (n, b'x' * 92))", 0, output)
    await worker.done()
    assert worker.out == data
    assert console.dropped_bytes == output.log_dropped_bytes["trainer"] > 0
    assert told == []
    os.set_blocking(reading, False)
    got = b""
    with anyio.fail_after(10):
        while not got.endswith(b"missing]\n"):
            await anyio.wait_readable(reading)
            got += os.read(reading, 1 << 16)
    kept, mark = got[: got.index(b"[%d bytes" % told[0])], got[got.index(b"[%d bytes" % told[0]) :]
    prefixed = data.replace(b"\n", b"\n[train0]:").removesuffix(b"[train0]:")
    assert (b"[train0]:" + prefixed).startswith(kept)
    assert kept.endswith(b"\n")
    assert mark == b"[%d bytes missing]\n" % console.dropped_bytes
    assert len(kept) + console.dropped_bytes == len(data) + 50_000 * len(b"[train0]:")
    output.close()
    console.close()
    os.close(reading)
    os.close(writing)


async def test_a_console_whose_reader_is_gone_takes_nothing_from_the_files(host: Host) -> None:
    reading, writing = os.pipe()
    broken: list[str] = []
    console = Console(writing, on_broken=broken.append)
    output = Output(console, console)
    os.close(reading)
    worker = host.shell("i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done", 0, output)
    await worker.done()
    assert worker.out == b"".join(b"%d\n" % n for n in range(2000))
    assert broken == ["Broken pipe"]
    output.close()
    console.close()
    os.close(writing)


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """64 KiB of disk."""
    at.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(at)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount a small tmpfs (root, CAP_SYS_ADMIN): {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


async def test_a_full_disk_stops_no_worker_and_the_file_says_what_is_missing_when_there_is_room_again(
    tmp_path: Path,
) -> None:
    go_ahead = str(tmp_path / "go_ahead")
    os.mkfifo(go_ahead)
    program = f"""
import os
os.write(1, b"x" * 99_999 + b"\\n")
open({go_ahead!r}).read()
os.write(1, b"the end\\n")
"""
    with small_disk(tmp_path / "disk") as disk, closing(Host(disk)) as host:
        filler = disk / "filler"
        filler.write_bytes(bytes(40_000))
        worker = host.python(program)
        writing = await anyio.to_thread.run_sync(os.open, go_ahead, os.O_WRONLY)  # once the worker has written it all
        worker.attached.drain()
        worker.settle()
        filler.unlink()
        os.close(writing)
        await worker.done()
        kept, mark, end = worker.out.rsplit(b"\n", 3)[:3]
        missing = 100_000 - len(kept)
        assert missing > 50_000
        assert kept == b"x" * len(kept)
        assert mark == b"[rankd: dropped %d bytes: No space left on device]" % missing
        assert end == b"the end"
        assert [(told.over, told.labels["rank"], told.stream, told.reason) for told in host.told] == [
            (False, "8", "stdout", "No space left on device"),
            (True, "8", "stdout", "No space left on device"),
        ]
        assert host.told[1].bytes == host.output.log_dropped_bytes["trainer"] == missing


# ---- lifetimes


async def test_what_was_written_before_death_is_read_before_anybody_says_so(host: Host) -> None:
    worker = host.python("import os, signal; os.write(2, b'last words'); os.kill(os.getpid(), signal.SIGKILL)")
    worker.process.wait()
    assert worker.err == b""
    worker.attached.drain()
    worker.settle()
    assert worker.err == b"last words"
    worker.attached.close()
    assert host.console(1) == b"[train0]:last words\n"


async def test_a_worker_may_close_its_stdout_and_go_on_with_stderr(host: Host) -> None:
    before = len(open_fds())
    worker = host.shell("echo one; echo two >&2; exec 1>&-; echo three >&2; exec sleep 100")
    await until(lambda: host.console(1).count(b"\n") == 2 and len(open_fds()) == before + 2)  # stderr's pipe and file
    assert worker.out == b"one\n"
    worker.process.kill()
    await worker.done()
    assert worker.err == b"two\nthree\n"
    assert len(open_fds()) == before


async def test_a_grandchild_that_holds_the_pipe_does_not_hold_us(host: Host) -> None:
    worker = host.shell("sleep 1000 & echo $!")
    await worker.ended()
    worker.attached.close()
    grandchild = int(worker.out)
    os.kill(grandchild, signal.SIGKILL)


async def test_a_grandchild_that_floods_the_pipe_does_not_hold_us(host: Host) -> None:
    worker = host.shell("yes & exit 0", tee=Streams(1))
    await worker.ended()
    worker.attached.drain()
    worker.attached.close()
    size = os.stat(worker.directory / "stdout.log").st_size
    assert size == host.output.log_bytes["trainer", "stdout"]


async def test_every_call_may_come_twice(host: Host) -> None:
    worker = host.shell("echo one")
    worker.attached.started(worker.process.pid)
    await worker.ended()
    for _ in range(2):
        worker.attached.drain()
    for _ in range(2):
        worker.attached.close()
    worker.attached.abort()
    assert host.console() == b"[train0]:one\n"


async def test_nothing_is_left_open_after_a_start_that_failed(host: Host) -> None:
    before = open_fds()
    host.output.attach(host.plan()).abort()
    assert open_fds() == before


@pytest.mark.parametrize("obstacle", ["directory", "link", "pipe"])
async def test_what_stands_in_the_place_of_a_log_file_is_refused_and_nothing_is_left_open(
    host: Host, obstacle: str
) -> None:
    plan = host.plan()
    os.makedirs(plan.directory)
    path = os.path.join(plan.directory, "stderr.log")
    {"directory": os.mkdir, "link": lambda path: os.symlink(__file__, path), "pipe": os.mkfifo}[obstacle](path)
    before = open_fds()
    with pytest.raises(OSError, match=r"stderr\.log"):
        host.output.attach(plan)
    assert open_fds() == before


async def test_a_pipe_that_somebody_reads_is_no_log_file_either(host: Host) -> None:
    plan = host.plan()
    os.makedirs(plan.directory)
    path = os.path.join(plan.directory, "stdout.log")
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="not a regular file"):
        host.output.attach(plan)
    os.close(reading)


async def test_a_lack_of_descriptors_at_any_point_is_an_error_that_leaves_nothing_open(host: Host) -> None:
    host.output.attach(host.plan()).abort()
    before = open_fds()
    needed = 6  # a log file and two ends of a pipe for each of two streams
    for spare in range(needed):
        with descriptors(lowest_free() + spare), pytest.raises(OSError, match="Too many open files"):
            host.output.attach(host.plan())
        assert open_fds() == before
    with descriptors(lowest_free() + needed):
        host.output.attach(host.plan()).abort()


@contextmanager
def descriptors(limit: int) -> Iterator[None]:
    """No descriptor from ``limit`` on can be opened meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def lowest_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


async def test_close_leaves_nothing_open_and_nothing_in_the_loop(host: Host) -> None:
    before = open_fds()
    watched = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
    watched_before = set(watched)
    output = Output(*host.consoles)
    worker = host.shell("echo one; echo two >&2", 0, output)
    await worker.ended()
    output.close()
    output.close()
    assert set(watched) == watched_before
    assert (worker.out, worker.err) == (b"one\n", b"two\n")
    assert open_fds() == before


@pytest.mark.parametrize(
    "rules",
    [{}, {"redirects": Streams(3), "tee": NONE}, {"tee": NONE, "journal": True}],
    ids=["tee", "redirect", "journal"],
)
async def test_the_last_lines_of_stderr_are_there_as_soon_as_the_worker_has_ended(
    host: Host, rules: dict[str, Any]
) -> None:
    worker = host.shell("i=0; while [ $i -lt 30 ]; do echo $i >&2; i=$((i+1)); done; echo out; exit 3", **rules)
    await worker.ended()
    worker.attached.drain()
    assert worker.attached.stderr_tail() == "\n".join(map(str, range(10, 30)))


def test_a_stream_without_a_file_or_with_a_lost_one_has_no_last_lines(host: Host) -> None:
    bare = host.shell("echo one >&2", tee=NONE)
    lost = host.shell("echo one >&2", 1, redirects=Streams(3), tee=NONE)
    bare.process.wait()
    lost.process.wait()
    os.unlink(lost.directory / "stderr.log")
    assert (bare.attached.stderr_tail(), lost.attached.stderr_tail()) == ("", "")
