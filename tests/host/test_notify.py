"""Workers are heard by sd_notify's protocol, strangers are not: real sockets, real processes, any bytes."""

from __future__ import annotations

import array
import os
import select
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.messages import Worker
from supervisor.core.watchdog import HEARTBEAT, Notice
from supervisor.host.notify import LARGEST, NAME, NotifySocket, parse
from tests.host.observing import open_fds, until

ME = Worker(3, 1)


class Door:
    """A socket that takes this process, and those named, for workers; and what has been heard."""

    def __init__(self, path: Path) -> None:
        self.heard: list[tuple[Worker, Notice]] = []
        self.workers = {os.getpid(): ME}
        self.socket = NotifySocket(str(path), self.workers.get, lambda *heard: self.heard.append(heard))
        address = self.socket.address
        self.client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.client.connect("\0" + address[1:] if address[0] == "@" else address)

    def say(self, *datagrams: bytes) -> list[Notice]:
        """Send these; what is heard then."""
        for datagram in datagrams:
            self.client.send(datagram)
        self.socket.drain()
        assert all(worker == ME for worker, _ in self.heard)
        notices = [notice for _, notice in self.heard]
        self.heard.clear()
        return notices

    def close(self) -> None:
        self.client.close()
        self.socket.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "notify")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("datagram", "notice"),
    [
        (b"READY=1", Notice(ready=True)),
        (b"READY=1\nSTATUS=serving\nMAINPID=1\n", Notice(ready=True, status="serving")),
        (b"WATCHDOG=1", HEARTBEAT),
        (b"WATCHDOG=1\n", HEARTBEAT),
        (b"WATCHDOG=trigger", Notice(trigger=True)),
        (b"WATCHDOG_USEC=1500000", Notice(heartbeat_every=1.5)),
        (b"WATCHDOG_USEC=0", Notice(heartbeat_every=0.0)),
        (b"EXTEND_TIMEOUT_USEC=30000000", Notice(extend_by=30.0)),
        (b"STOPPING=1", Notice(stopping=True)),
        (b"STATUS=a\tb\x1b[31m=c", Notice(status="a b [31m=c")),
        (b"STATUS=\xff\nREADY=1", Notice(status="\ufffd", ready=True)),
        (b"X_SECTION_BEGIN=step", Notice(sections=((True, "step"),))),
        (b"X_SECTION_END=a\nX_SECTION_BEGIN=b", Notice(sections=((False, "a"), (True, "b")))),
        (b"X_PROGRESS=17", Notice(progress=17)),
        (b"MAINPID=1\nERRNO=2\nFDSTORE=1\nX_MINE=yes\nREADY=0\nWATCHDOG=maybe", Notice()),
    ],
)  # fmt: skip
def test_a_datagram_says_what_sd_notify_says_it_does(datagram: bytes, notice: Notice) -> None:
    assert parse(datagram) == notice
    assert (parse(datagram) is HEARTBEAT) == (notice is HEARTBEAT)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\n",
        b"READY",
        b"=1",
        b"READY=1\n\nSTATUS=x",
        b"READY=1\0",
        b"WATCHDOG_USEC=-1",
        b"WATCHDOG_USEC=",
        b"WATCHDOG_USEC=1e6",
        b"WATCHDOG_USEC=18446744073709551615",
        b"EXTEND_TIMEOUT_USEC= 5",
        b"EXTEND_TIMEOUT_USEC=" + b"9" * 3000,
        "X_PROGRESS=\u0663".encode(),
        b"X_SECTION_BEGIN=",
        b"X_SECTION_BEGIN=a\x1b",
        b"X_SECTION_END=" + b"x" * (NAME + 1),
    ],
)
def test_what_cannot_be_meant_is_refused_whole_and_counted(door: Door, datagram: bytes) -> None:
    assert door.say(datagram, b"READY=1") == [Notice(ready=True)]
    assert (door.socket.refused, door.socket.taken) == (1, 1)


def test_a_datagram_is_as_long_as_systemd_would_take_it(door: Door) -> None:
    status = "x" * (LARGEST - len("STATUS="))
    assert door.say(f"STATUS={status}".encode(), f"STATUS={status}y".encode()) == [Notice(status=status)]
    assert door.socket.refused == 1


@given(st.binary(max_size=5000))
def test_any_bytes_move_nothing_but_a_counter(datagram: bytes) -> None:
    notice = parse(datagram)
    if b"=" not in datagram:
        assert notice is None
    if notice is not None:
        assert notice.heartbeat_every is None or 0 <= notice.heartbeat_every < 1e13
        assert all(name.isprintable() for _, name in notice.sections)
        assert notice.status is None or "\n" not in notice.status


FIELDS = st.sampled_from(
    ["READY", "WATCHDOG", "WATCHDOG_USEC", "STATUS", "STOPPING", "EXTEND_TIMEOUT_USEC", "MAINPID", "BARRIER", "FDSTORE",
     "X_SECTION_BEGIN", "X_SECTION_END", "X_PROGRESS", "X_", ""]
)  # fmt: skip


@given(st.lists(st.tuples(FIELDS, st.text(max_size=30) | st.integers().map(str)), max_size=8))
def test_fields_of_any_value_are_a_sound_notice_or_none(fields: list[tuple[str, str]]) -> None:
    notice = parse("\n".join(f"{name}={value}" for name, value in fields).encode(errors="surrogatepass"))
    if notice is not None:
        assert all(0 < len(name) <= NAME for _, name in notice.sections)
        assert notice.progress is None or notice.progress >= 0
        assert notice.extend_by is None or 0 <= notice.extend_by < 1e13


def test_junk_at_the_real_door_moves_nothing_but_a_counter(door: Door) -> None:
    before = open_fds()
    junk = [bytes([number]) * number for number in range(10)]
    assert door.say(*junk) == []
    assert (door.socket.refused, door.socket.taken, door.socket.foreign) == (10, 0, 0)
    assert open_fds() == before


SAYS = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(sys.argv[2].encode(), sys.argv[1])
sys.stdin.read()
"""


def test_a_process_that_is_no_workers_is_not_heard_and_one_that_is_is_known_by_the_kernels_word(door: Door) -> None:
    other = Worker(0, 1)
    for is_worker in (False, True):
        command = [sys.executable, "-c", SAYS, door.socket.address, "READY=1"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
            assert child.stdin is not None
            if is_worker:
                door.workers[child.pid] = other
            select.select([door.socket._socket], [], [], 20)
            door.socket.drain()
            child.stdin.close()
    assert (door.heard, door.socket.foreign) == ([(other, Notice(ready=True))], 1)


def test_descriptors_that_come_along_are_closed_and_never_ours(door: Door) -> None:
    before = len(open_fds())
    reading, writing = os.pipe()
    for words in (b"FDSTORE=1\nFDNAME=x", b"BARRIER=1"):
        fds = array.array("i", [writing] * 20)
        door.client.sendmsg([words], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    os.close(writing)
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    assert door.say() == [Notice(), Notice()]
    assert os.read(reading, 1) == b""  # nobody has the other end any more: a barrier is passed
    os.close(reading)
    assert len(open_fds()) == before


def test_a_barrier_is_passed_only_when_what_was_said_before_it_has_been_acted_on(door: Door) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    held: list[tuple[bool, bytes | None]] = []

    def hear(worker: Worker, notice: Notice) -> None:
        try:
            held.append((notice.ready, os.read(reading, 1)))
        except BlockingIOError:
            held.append((notice.ready, None))

    door.socket._hear = hear
    door.client.send(b"READY=1")
    door.client.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))])
    os.close(writing)
    door.socket.drain()
    assert held == [(True, None), (False, b"")]
    os.close(reading)


async def test_a_datagram_wakes_the_loop_and_a_closed_door_hears_nothing(door: Door) -> None:
    door.socket.listen()
    door.client.send(b"WATCHDOG=1")
    await until(lambda: door.heard)
    assert door.heard == [(ME, HEARTBEAT)]
    door.socket.close()
    door.socket.close()
    door.socket.drain()
    with pytest.raises(ConnectionRefusedError):
        door.client.send(b"WATCHDOG=1")


def test_what_is_heard_may_close_the_door(door: Door) -> None:
    door.socket._hear = lambda worker, notice: door.socket.close()
    door.client.send(b"READY=1")
    door.client.send(b"STOPPING=1")
    door.socket.drain()
    assert door.socket.taken == 1


def notify(door: Door, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "NOTIFY_SOCKET": door.socket.address}
    return subprocess.Popen(["systemd-notify", *words], env=environment)


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd-notify is missing: install systemd")
async def test_systemd_notify_is_heard_and_its_barrier_is_passed(door: Door) -> None:
    door.socket.listen()
    for words, notice in (
        (("--ready", "--status=serving"), Notice(ready=True, status="serving")),
        (("WATCHDOG=1",), HEARTBEAT),
        (("X_SECTION_BEGIN=load",), Notice(sections=((True, "load"),))),
    ):
        door.heard.clear()
        with notify(door, *words) as process:
            door.workers[process.pid] = ME
            await until(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert door.heard[0] == (ME, notice)


def test_the_socket_is_ours_alone_and_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "notify").write_text("of an earlier daemon")
    door = Door(tmp_path / "notify")
    found = os.stat(door.socket.address)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    door.close()
    assert os.listdir(tmp_path) == []


def test_a_path_too_long_for_a_socket_gives_an_abstract_name_and_strangers_are_no_more_heard_there(
    tmp_path: Path,
) -> None:
    fits = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1))
    door = Door(fits)
    assert door.socket.address == str(fits)
    door.close()
    door = Door(Path(f"{fits}x"))
    assert door.socket.address.startswith("@rankd-")
    assert door.say(b"READY=1") == [Notice(ready=True)]
    door.workers.clear()
    assert door.say(b"READY=1") == []
    assert door.socket.foreign == 1
    door.close()


def test_a_directory_that_is_not_there_is_an_error_and_nothing_is_left_open(tmp_path: Path) -> None:
    before = open_fds()
    with pytest.raises(FileNotFoundError):
        Door(tmp_path / "nowhere" / "notify")
    assert open_fds() == before


def test_a_heartbeat_costs_one_system_call_and_the_last_of_a_batch_one_more(tmp_path: Path) -> None:
    door = Door(tmp_path / "notify")
    calls = 0

    class Counting(socket.socket):
        def recvmsg_into(self, *args: object) -> object:  # type: ignore[override]
            nonlocal calls
            calls += 1
            return super().recvmsg_into(*args)  # type: ignore[arg-type]

    real = door.socket._socket
    door.socket._socket = Counting(fileno=real.detach())
    assert door.say(*[b"WATCHDOG=1"] * 8) == [HEARTBEAT] * 8
    assert calls == 9
    door.close()
