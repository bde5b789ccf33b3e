"""What a daemon leaves for the next one: current, whole at every instant, and not believed before it is checked."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.host import state
from supervisor.host.disk import Disk
from supervisor.host.proc import read_process
from supervisor.host.state import Daemon, Held, Recorded, Refused, State, StateFile, hold, parse, read, this_daemon
from tests.host.disks import AtOnce
from tests.host.observing import open_fds

MARK = "0123456789ab"
ME = os.getpid()


class Loop:
    """The part of an event loop that ``StateFile`` uses, with its time in the test's hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[[], None]) -> Any:
        self.timers.append((at, callback))
        return SimpleNamespace(cancel=partial(self.timers.remove, (at, callback)))

    def call_later(self, after: float, callback: Callable[[], None]) -> Any:
        return self.call_at(self.now + after, callback)

    def pass_to(self, now: float) -> None:
        """Everything that is due by then has been done."""
        while due := sorted((entry for entry in self.timers if entry[0] <= now), key=lambda entry: entry[0]):
            self.now = max(self.now, due[0][0])
            self.timers.remove(due[0])
            due[0][1]()
        self.now = now


class Kept:
    """A state file in a test's hands."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "state.json"
        self.loop = Loop()
        self.troubles: list[int | None] = []
        self.file = StateFile(
            str(directory),
            this_daemon(MARK),
            "job-42",
            self.loop,  # type: ignore[arg-type]
            lambda error: self.troubles.append(None if error is None else error.errno),
            AtOnce(),  # type: ignore[arg-type]
        )

    def read(self) -> State:
        found = read(str(self.directory))
        assert isinstance(found, State), found
        return found

    def ranks(self) -> set[int]:
        return {worker.rank for worker in self.read().workers}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


@pytest.fixture
def writings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each file that was written so far."""
    sizes = []
    rename = os.rename

    def counting(source: str, target: str) -> None:
        sizes.append(os.path.getsize(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", counting)
    return sizes


# ---- writing


def test_it_is_there_from_the_first_moment_and_says_who_we_are(kept: Kept) -> None:
    me = read_process(ME)
    assert me
    found = kept.read()
    assert found.daemon == Daemon(ME, me.started, me.session, MARK)
    assert (found.run_id, found.workers, found.boot_id) == ("job-42", (), state.boot_id())
    assert me.started <= found.written_at <= state.ticks()
    assert kept.path.stat().st_mode & 0o777 == 0o600


def test_it_names_the_workers_that_run_with_pid_and_start_time(kept: Kept) -> None:
    me = read_process(ME)
    assert me
    kept.file.started('a"b\udc80ä', 3, 7, ME)
    kept.loop.pass_to(101)
    assert kept.read().workers == (Recorded('a"b\udc80ä', 3, 7, ME, me.started),)


def test_a_worker_that_is_reaped_is_not_named_any_more(kept: Kept) -> None:
    for rank in range(3):
        kept.file.started("job", rank, 0, ME)
    kept.file.ended("job", 1)
    kept.file.ended("job", 99)
    kept.loop.pass_to(101)
    assert kept.ranks() == {0, 2}
    kept.file.started("job", 1, 1, ME)
    kept.loop.pass_to(102)
    assert kept.ranks() == {0, 1, 2}


def test_the_first_change_is_written_at_once_and_a_thousand_more_together(kept: Kept, writings: list[int]) -> None:
    kept.loop.pass_to(100.5)
    kept.file.started("job", 0, 0, ME)
    kept.loop.pass_to(100.5)
    assert len(writings) == 1
    for rank in range(1, 1001):
        kept.file.started("job", rank, 0, ME)
        kept.loop.pass_to(100.5 + rank / 10_000)
    assert len(writings) == 2
    assert len(kept.ranks()) == 1001
    assert 50_000 < writings[-1] < 120_000


def test_nothing_is_written_while_nothing_changes(kept: Kept, writings: list[int]) -> None:
    kept.file.started("job", 0, 0, ME)
    kept.loop.pass_to(101)
    assert len(writings) == 1
    assert kept.loop.timers == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_is_told_once_and_tried_again(
    kept: Kept, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    before = kept.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write" if number == errno.ENOSPC else "rename", refuse)
        kept.file.started("job", 0, 0, ME)
        kept.loop.pass_to(100.2)
        kept.file.ended("job", 99)
        kept.loop.pass_to(120)
        assert kept.troubles == [number]
    assert kept.path.read_bytes() == before
    assert sorted(os.listdir(kept.directory)) == ["state.json"]
    kept.loop.pass_to(130)
    assert kept.troubles == [number, None]
    assert kept.ranks() == {0}
    assert kept.loop.timers == []


def test_a_directory_that_is_removed_under_us_is_no_reason_to_end(kept: Kept) -> None:
    fds = open_fds()
    kept.path.unlink()
    kept.directory.rmdir()
    kept.file.started("job", 0, 0, ME)
    kept.loop.pass_to(101)
    assert kept.troubles == [errno.ENOENT]
    assert open_fds() == fds
    kept.directory.mkdir()
    kept.loop.pass_to(110)
    assert kept.ranks() == {0}


def test_a_worker_started_when_descriptors_are_short_is_told_of_when_they_are_not(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        kept.file.started("job", 0, 0, ME)
        kept.loop.pass_to(101)
    kept.file.started("job", 1, 0, ME)
    kept.loop.pass_to(120)
    assert kept.ranks() == {0, 1}


def test_a_worker_that_has_ended_before_it_was_told_of_never_is(kept: Kept) -> None:
    kept.file.started("job", 0, 0, ME)
    kept.file.started("job", 1, 0, ME)
    kept.file.ended("job", 0)
    kept.loop.pass_to(101)
    assert kept.ranks() == {1}


def test_an_end_in_order_leaves_nothing_and_any_other_what_was_written(tmp_path: Path) -> None:
    for in_order in (False, True):
        kept = Kept(tmp_path)
        kept.file.started("job", 0, 0, ME)
        kept.file.close(in_order=in_order)
        assert kept.loop.timers == []
        assert kept.path.exists() == (not in_order)


async def test_a_disk_that_does_not_answer_holds_up_nobody_and_gets_the_last_word_when_it_does(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    file = StateFile(str(tmp_path), this_daemon(MARK), "job-42", loop, lambda error: None, disk := Disk())
    answers = threading.Event()
    disk.do(answers.wait)
    for rank in range(3):
        file.started("job", rank, 0, ME)
        await asyncio.sleep(0)
    file.ended("job", 1)
    answers.set()
    async with asyncio.timeout(5):
        while {one.rank for one in cast("State", read(str(tmp_path))).workers} != {0, 2}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    file.close(in_order=True)
    assert not (tmp_path / "state.json").exists()


def test_what_a_start_borrows_for_a_moment_is_no_trouble(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(state, "replace_file", refuse)
        kept.file.started("job", 0, 0, ME)
        kept.loop.pass_to(100.05)
    kept.loop.pass_to(100.5)
    assert kept.troubles == []
    assert kept.ranks() == {0}
    with monkeypatch.context() as patch:
        patch.setattr(state, "replace_file", refuse)
        kept.file.ended("job", 0)
        kept.loop.pass_to(101)
    assert kept.troubles == [errno.EMFILE], "but one that lasts is"


async def test_it_lives_in_a_real_event_loop(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    file = StateFile(str(tmp_path), this_daemon(MARK), "job-42", loop, lambda error: None, Disk())
    file.started("job", 0, 0, ME)
    async with asyncio.timeout(5):
        while not (isinstance(found := read(str(tmp_path)), State) and found.workers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    file.close(in_order=True)


# ---- killed at any moment


class Killed(BaseException):
    """The process is no more: nothing that it would have done is done."""


def test_whoever_is_killed_leaves_the_old_state_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6)))
    print("SEED =", seed)
    chance = random.Random(seed)
    real = {name: getattr(os, name) for name in ("open", "write", "close", "rename", "unlink")}
    lives = 0  # system calls until the kill; negative: never
    dead = False

    def mortal(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal lives, dead
            if lives == 0:
                if name == "write" and not dead:  # part of it may have been written
                    fd, data = arguments
                    real["write"](fd, data[: chance.randrange(len(data) + 1)])
                dead = True
            if dead:
                raise Killed
            lives -= 1
            if name == "write":  # and a write may be short in any life
                fd, data = arguments
                return real["write"](fd, data[: chance.randrange(1, len(data) + 1)])
            return real[name](*arguments, **keywords)

        return call

    monkeypatch.setattr(state, "read_process", dict.fromkeys([ME], read_process(ME)).get)  # what it asks is no deed
    outcomes = {"old": 0, "new": 0}
    kept = Kept(tmp_path)
    before: set[int] = set()
    for history in range(1000):
        after = set(chance.sample(range(50), chance.randrange(50)))
        for rank in before | set(range(50)):
            kept.file.ended("job", rank)
        for rank in after:
            kept.file.started("job", rank, history, ME)
        with monkeypatch.context() as patch:
            lives, dead = chance.randrange(12), False
            for name in real:
                patch.setattr(os, name, mortal(name))
            try:
                kept.loop.pass_to(kept.loop.now + 1)
            except Killed:
                assert dead
        for fd in {int(line.split()[0]) for line in open_fds() if "state.json.new" in line}:
            os.close(fd)  # the kernel does
        found = kept.ranks()
        assert found in (before, after), f"history {history}"
        outcomes["new" if found == after else "old"] += 1
        if dead:
            kept = Kept(tmp_path)  # the next daemon
            before = set()
        else:
            before = found
    assert min(outcomes.values()) > 100, outcomes


WRITER = """
import sys
from tests.host.test_state import Kept, ME
from pathlib import Path
kept = Kept(Path(sys.argv[1]))
print("up", flush=True)
for turn in range(10**9):
    for rank in range(turn % 100):
        kept.file.started("job", rank, turn, ME)
    kept.loop.pass_to(kept.loop.now + 1)
"""


def test_a_writer_that_is_really_killed_leaves_a_state_that_can_be_read(tmp_path: Path) -> None:
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        ) as writer:
            assert writer.stdout
            assert writer.stdout.readline() == b"up\n"
            for _ in range(200):
                assert isinstance(read(str(tmp_path)), State), "read while it is being replaced"
            writer.kill()
        found = read(str(tmp_path))
        assert isinstance(found, State)
        assert found.daemon.pid == writer.pid


# ---- reading

TEXTS = st.text(max_size=20)
NUMBERS = st.integers(0, 2**63 - 1)
PIDS = st.integers(2, 2**22)
STATES = st.builds(
    State,
    boot_id=st.uuids().map(str),
    directory=st.tuples(NUMBERS, NUMBERS),
    daemon=st.builds(Daemon, PIDS, NUMBERS, NUMBERS, st.from_regex(r"\A[0-9a-f]{12}\Z")),
    run_id=TEXTS,
    written_at=NUMBERS,
    workers=st.lists(st.builds(Recorded, TEXTS, NUMBERS, NUMBERS, PIDS, NUMBERS), max_size=5).map(tuple),
)


def plain(found: State) -> dict[str, Any]:
    """As it stands in the file."""
    workers = [worker._asdict() for worker in found.workers]
    return {"version": 1} | found._asdict() | {"daemon": found.daemon._asdict(), "workers": workers}


@given(STATES)
def test_a_state_is_read_as_it_was_written(found: State) -> None:
    assert parse(json.dumps(plain(found)).encode()) == found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value within."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


HOSTILE = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.integers(-5, 1), st.integers(2**63, 2**70),
    st.just([]), st.just({}), st.just("x" * 5000), st.just([[[]]]),
)  # fmt: skip


@given(STATES, st.data())
def test_one_thing_wrong_anywhere_is_enough_to_refuse_it(found: State, data: st.DataObject) -> None:
    written = plain(found)
    *way, last = data.draw(st.sampled_from([path for path in places(written) if path]))
    at: Any = written
    for key in way:
        at = at[key]
    was = at[last]
    if data.draw(st.booleans()) and isinstance(at, dict):
        del at[last]
    else:
        wrong = data.draw(HOSTILE)
        at[last] = wrong
    try:
        read_back = parse(json.dumps(written).encode())
    except ValueError:
        return
    # another value of the same kind: what was read is what stands there, and nothing else
    assert type(at[last]) is type(was)
    assert plain(read_back) == written


@given(st.binary(max_size=300))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"9" * 10_000)
@example(b"NaN")
@example(b"\xff\xfe{")
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        parse(data)


@given(STATES, st.data())
def test_a_state_that_was_damaged_is_a_state_or_refused(found: State, data: st.DataObject) -> None:
    written = bytearray(json.dumps(plain(found)).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(written) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                written[at] = data.draw(st.integers(0, 255))
            case "cut":
                del written[at : at + data.draw(st.integers(1, 50))]
            case "insert":
                written[at:at] = data.draw(st.binary(max_size=20))
        if not written:
            break
    with suppress(ValueError):
        assert isinstance(parse(bytes(written)), State)


def test_a_file_without_end_is_not_read_to_the_end(tmp_path: Path) -> None:
    with open(tmp_path / "state.json", "wb") as file:
        file.truncate(10 * state.LIMIT)
    os.chmod(tmp_path / "state.json", 0o600)
    assert read(str(tmp_path)) == Refused(f"it is longer than {state.LIMIT} bytes")


def test_nothing_there_is_nothing_to_refuse(tmp_path: Path) -> None:
    assert read(str(tmp_path)) is None
    assert read(str(tmp_path / "missing")) is None


def test_what_is_no_file_of_ours_is_refused(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> None:
    here = str(kept.directory)
    kept.path.chmod(0o622)
    assert read(here) == Refused("others can write it")
    kept.path.chmod(0o600)
    moved = tmp_path_factory.mktemp("elsewhere") / "state.json"
    kept.path.rename(moved)
    kept.path.symlink_to(moved)
    assert isinstance(read(here), Refused)
    kept.path.unlink()
    os.mkfifo(kept.path)
    assert read(here) == Refused("it is not a file"), "and nobody waits for a writer"
    kept.path.unlink()
    kept.path.mkdir()
    assert read(here) == Refused("it is not a file")
    kept.path.rmdir()
    moved.rename(kept.path)
    assert isinstance(read(here), State)
    kept.path.write_bytes(b"")
    assert isinstance(read(here), Refused)


def test_a_copy_in_another_directory_is_refused(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy")
    (copy / "state.json").write_bytes(kept.path.read_bytes())
    os.chmod(copy / "state.json", 0o600)
    assert read(str(copy)) == Refused("it was written for another directory, and copied here")


def test_what_is_refused_is_set_aside_for_people(kept: Kept) -> None:
    kept.path.write_bytes(b"{")
    aside = state.set_aside(str(kept.directory))
    assert Path(aside).read_bytes() == b"{"
    assert read(str(kept.directory)) is None


# ---- one daemon a directory


def test_a_directory_has_one_daemon_at_a_time(tmp_path: Path) -> None:
    fds = open_fds()
    lock = hold(str(tmp_path))
    assert isinstance(lock, int)
    assert hold(str(tmp_path)) == Held(f"pid {ME} on {os.uname().nodename}")
    os.close(lock)
    again = hold(str(tmp_path))
    assert isinstance(again, int)
    os.close(again)
    assert open_fds() == fds


HOLDER = (
    "import sys, signal; from supervisor.host.state import hold; print(hold(sys.argv[1]), flush=True); signal.pause()"
)


def test_the_directory_is_free_as_soon_as_its_daemon_is_dead_whoever_lives(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        assert hold(str(tmp_path)) == Held(f"pid {holder.pid} on {os.uname().nodename}")
        holder.send_signal(signal.SIGKILL)
    lock = hold(str(tmp_path))
    assert isinstance(lock, int)
    with subprocess.Popen(["sleep", "100"], close_fds=False) as child:
        os.close(lock)
        lock = hold(str(tmp_path))
        child.kill()
    assert isinstance(lock, int)
    os.close(lock)


def test_a_directory_that_cannot_be_locked_is_said_by_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        hold(str(tmp_path / "missing"))
