"""What systemd hears and what we take from it: real sockets and descriptors, the other side played by the test."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from supervisor import clock
from supervisor.host import systemd
from supervisor.host.systemd import Notifier, SocketsRefused


class FakeSystemd:
    """The receiving end of ``NOTIFY_SOCKET``."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)

    def hears(self) -> str:
        return self.socket.recv(65536).decode()

    def heard(self) -> list[str]:
        """Everything that has arrived by now."""
        self.socket.setblocking(False)
        messages = []
        try:
            while True:
                messages.append(self.socket.recv(65536).decode())
        except BlockingIOError:
            self.socket.settimeout(5)
            return messages

    async def hears_soon(self) -> str:
        """The next message, waited for in the loop."""
        await anyio.wait_readable(self.socket)
        return self.hears()


@pytest.fixture
def fake() -> Iterator[FakeSystemd]:
    with tempfile.TemporaryDirectory() as folder:
        receiver = FakeSystemd(os.path.join(folder, "notify"))
        with receiver.socket:
            yield receiver


@pytest.fixture
def notifier(fake: FakeSystemd) -> Iterator[Notifier]:
    teller = Notifier.from_environment({"NOTIFY_SOCKET": fake.address})
    yield teller
    teller.close()


def fill(notifier: Notifier) -> None:
    """Ping until the receiver takes no more."""
    for _ in range(100_000):
        notifier.watchdog()
        if notifier.lost:
            return
    raise AssertionError("the receiver takes everything")


# ---- sd_notify


def test_each_message_is_one_datagram_in_the_words_of_sd_notify(fake: FakeSystemd, notifier: Notifier) -> None:
    notifier.ready("4/4 workers")
    notifier.status("3/4 workers")
    notifier.watchdog()
    notifier.extend_timeout(2.5)
    notifier.stopping("SIGTERM")
    assert fake.heard() == [
        "READY=1\nSTATUS=4/4 workers",
        "STATUS=3/4 workers",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=2500000",
        "STOPPING=1\nSTATUS=SIGTERM",
    ]
    assert notifier.lost == 0


def test_a_reload_carries_the_monotonic_microsecond_at_which_it_began(fake: FakeSystemd, notifier: Notifier) -> None:
    before = clock.now()
    notifier.reloading()
    after = clock.now()
    first, second = fake.hears().split("\n")
    assert first == "RELOADING=1"
    name, usec = second.split("=")
    assert name == "MONOTONIC_USEC"
    assert int(before * 1e6) <= int(usec) <= int(after * 1e6)


def test_an_abstract_address_begins_with_an_at_sign() -> None:
    fake = FakeSystemd(f"@rankd-test-{os.getpid()}")
    notifier = Notifier(fake.address)
    with fake.socket:
        notifier.ready()
        assert fake.hears() == "READY=1"
    notifier.close()


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234"])
def test_without_an_address_that_it_knows_a_notifier_does_nothing(address: str) -> None:
    notifier = Notifier(address)
    notifier.ready("up")
    notifier.reloading()
    notifier.watchdog()
    notifier.extend_timeout(1)
    notifier.stopping()
    assert (notifier.lost, notifier.owes) == (0, False)
    notifier.close()


def test_the_socket_is_not_inherited_by_children(notifier: Notifier) -> None:
    assert notifier._socket is not None
    assert fcntl.fcntl(notifier._socket, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_the_same_status_is_sent_once(fake: FakeSystemd, notifier: Notifier) -> None:
    notifier.ready("4/4")
    notifier.status("4/4")
    notifier.status("3/4")
    notifier.status("3/4")
    notifier.status("4/4")
    notifier.status("")
    assert fake.heard() == ["READY=1\nSTATUS=4/4", "STATUS=3/4", "STATUS=4/4"]


def test_a_status_cannot_carry_a_second_field(fake: FakeSystemd, notifier: Notifier) -> None:
    notifier.status("fine\nMAINPID=1\r\x00\x1b[31m\x85\u2028end")
    assert fake.hears() == "STATUS=fine MAINPID=1   [31m  end"


def test_a_status_is_valid_utf8_whatever_a_worker_is_called(fake: FakeSystemd, notifier: Notifier) -> None:
    notifier.status("größer \udc80 als")
    assert fake.hears() == "STATUS=größer ? als"


@pytest.mark.parametrize("letter", ["x", "é", "日", "🚀"])
def test_a_long_status_is_cut_between_characters(fake: FakeSystemd, notifier: Notifier, letter: str) -> None:
    notifier.status(letter * 5000)
    text = fake.hears().removeprefix("STATUS=")
    assert systemd.STATUS_BYTES - 4 < len(text.encode()) <= systemd.STATUS_BYTES
    assert text == letter * (len(text) - 1) + "…"


def test_a_receiver_that_is_not_there_is_counted_and_owed_what_matters(fake: FakeSystemd) -> None:
    notifier = Notifier(fake.address + "-later")
    notifier.ready()
    notifier.watchdog()
    assert notifier.lost == 2
    assert notifier.owes
    later = FakeSystemd(fake.address + "-later")
    with later.socket:
        assert notifier.pay()
        assert later.heard() == ["READY=1"]
    notifier.status("nobody reads this socket any more")
    assert notifier.lost == 3
    notifier.close()


def test_a_full_socket_neither_blocks_nor_loses_a_change_of_state(fake: FakeSystemd, notifier: Notifier) -> None:
    fill(notifier)
    notifier.ready()
    notifier.status("1/2")
    notifier.status("2/2")
    assert notifier.owes
    assert set(fake.heard()) == {"WATCHDOG=1"}
    notifier.watchdog()
    assert fake.heard() == ["READY=1", "STATUS=2/2", "WATCHDOG=1"]
    assert not notifier.owes


async def test_what_is_owed_is_paid_when_the_receiver_has_room_again(fake: FakeSystemd, notifier: Notifier) -> None:
    fill(notifier)
    notifier.ready()
    lost = notifier.lost
    settled: list[bool] = []

    async def settle() -> None:
        settled.append(await systemd.settle(notifier, every=0.01))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settle)
        await _until(lambda: notifier.lost > lost)
        assert "READY=1" not in fake.heard()
    assert settled == [True]
    assert fake.heard() == ["READY=1"]


async def test_settling_gives_up_on_a_receiver_that_takes_nothing(fake: FakeSystemd, notifier: Notifier) -> None:
    fill(notifier)
    notifier.stopping()
    assert not await systemd.settle(notifier, within=0.05, every=0.01)
    assert notifier.owes


async def _until(true: Callable[[], bool]) -> None:
    """Let the loop turn until it is so."""
    with anyio.fail_after(5):
        while not true():
            await anyio.lowlevel.checkpoint()


# ---- the watchdog


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "4711"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "4712"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": "4711"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time_if_it_watches_us(environ: dict[str, str], interval: float | None) -> None:
    assert systemd.watchdog_interval(environ, 4711) == interval


async def test_the_watchdog_is_fed_while_the_check_says_so(fake: FakeSystemd, notifier: Notifier) -> None:
    verdicts = iter([True, False, False, True])
    asked = 0

    def alive() -> bool:
        nonlocal asked
        asked += 1
        return next(verdicts, False)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(systemd.feed_watchdog, notifier, 0.01, alive)
        with anyio.fail_after(5):
            assert await fake.hears_soon() == "WATCHDOG=1"
            assert asked == 1
            assert await fake.hears_soon() == "WATCHDOG=1"
            assert asked == 4
        tasks.cancel_scope.cancel()


# ---- EXTEND_TIMEOUT_USEC


def test_systemd_is_asked_for_the_time_to_the_deadline_and_a_margin(fake: FakeSystemd, notifier: Notifier) -> None:
    assert systemd.extend_until(notifier, 130.0, 100.0, margin=10.0)
    assert fake.hears() == "EXTEND_TIMEOUT_USEC=40000000"
    assert not systemd.extend_until(notifier, 100.0, 100.0)
    assert fake.heard() == []


async def test_a_long_stop_is_extended_again_and_again_until_there_is_no_deadline(
    fake: FakeSystemd, notifier: Notifier
) -> None:
    deadlines: list[float | None] = [clock.now() + 100, clock.now() + 200, None]
    with anyio.fail_after(5):
        await systemd.keep_extending(notifier, lambda: deadlines.pop(0), every=0.01)
    assert deadlines == []
    asked = [int(message.removeprefix("EXTEND_TIMEOUT_USEC=")) / 1e6 for message in fake.heard()]
    assert asked == pytest.approx([100.0, 200.0], abs=2.0)


async def test_extending_ends_with_the_deadline(fake: FakeSystemd, notifier: Notifier) -> None:
    deadline = clock.now() + 0.05
    with anyio.fail_after(5):
        await systemd.keep_extending(notifier, lambda: deadline, every=0.02)
    assert clock.now() >= deadline
    assert 1 <= len(fake.heard()) <= 3


# ---- sd_listen_fds

_RECEIVER = """
import json, os, socket, subprocess, sys
from supervisor.host import systemd
environ = {name: value for name, value in os.environ.items() if name.startswith("LISTEN_")}
answer = systemd.listen_fds(os.environ, os.getpid())
if isinstance(answer, systemd.SocketsRefused):
    found = {"refused": answer.reason}
else:
    found = {"sockets": [[name, sock.fileno(), sock.getsockname()] for name, sock in answer]}
count = int(sys.argv[1])
found["inheritable"] = [os.get_inheritable(fd) for fd in range(3, 3 + count)]
systemd.forget(os.environ)
found["left"] = sorted(name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_")))
print(json.dumps(found))
"""

_LAUNCH = """
import os, sys
taken, environ = eval(sys.argv[1])
for number, fd in enumerate(taken):
    os.dup2(fd, 100 + number)
for number in range(len(taken)):
    os.dup2(100 + number, 3 + number)
os.closerange(3 + len(taken), 256)
environ = {name: value.replace("SELF", str(os.getpid())) for name, value in environ.items()}
os.execve(sys.executable, [sys.executable, "-c", sys.argv[2], str(len(taken))], {**os.environ, **environ})
"""
"""Puts the descriptors where systemd puts them, writes its own pid into the environment and becomes the receiver."""


def activated(descriptors: list[int], environ: dict[str, str]) -> dict[str, Any]:
    """What a process sees that is started as systemd starts one with these descriptors; SELF stands for its pid."""
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_LAUNCH), repr((descriptors, environ)), _RECEIVER],
        pass_fds=descriptors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
    ).stdout
    answer: dict[str, Any] = json.loads(out)
    return answer


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_sockets_passed_by_systemd_come_with_their_names_and_stay_with_us() -> None:
    with listener() as first, listener() as second:
        seen = activated(
            [first.fileno(), second.fileno()],
            {"LISTEN_PID": "SELF", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "health:agent", "LISTEN_PIDFDID": "1"},
        )
        assert seen == {
            "sockets": [["health", 3, list(first.getsockname())], ["agent", 4, list(second.getsockname())]],
            "inheritable": [False, False],
            "left": [],
        }


def test_a_unix_listener_without_a_name_is_called_unknown(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as sock:
        path = os.path.join(folder, "health.sock")
        sock.bind(path)
        sock.listen()
        seen = activated([sock.fileno()], {"LISTEN_PID": "SELF", "LISTEN_FDS": "1", "WATCHDOG_PID": "1"})
        assert seen["sockets"] == [["unknown", 3, path]]
        assert seen["left"] == []


def test_sockets_meant_for_another_process_are_not_touched() -> None:
    with listener() as sock:
        seen = activated([sock.fileno()], {"LISTEN_PID": "1", "LISTEN_FDS": "1"})
        assert (seen["sockets"], seen["inheritable"]) == ([], [True])


def test_what_is_not_a_listening_stream_socket_is_refused_with_words() -> None:
    with ExitStack() as stack:
        good = stack.enter_context(listener())
        datagram = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        silent = stack.enter_context(socket.socket())
        file = stack.enter_context(tempfile.TemporaryFile())
        environ = {"LISTEN_PID": "SELF", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "health:odd"}
        reasons = []
        for odd in (datagram, silent, file):
            seen = activated([good.fileno(), odd.fileno()], environ)
            assert seen["inheritable"] == [False, False]
            reasons.append(seen["refused"])
        assert reasons[0] == "descriptor 4 (odd) is not a stream socket (use ListenStream=)"
        assert reasons[1] == "descriptor 4 (odd) does not listen (use Accept=no)"
        assert reasons[2].startswith("descriptor 4 (odd) is not a socket: ")


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"LISTEN_FDS": "many"}, "LISTEN_FDS='many' is not a number"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS='-1' is not a number"),
        ({"LISTEN_FDS": "2"}, "LISTEN_FDS=2, but descriptor 4 was not passed"),
        ({"LISTEN_FDS": "99999999999"}, "LISTEN_FDS=99999999999, but descriptor 4 was not passed"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, "LISTEN_FDS=1, but LISTEN_FDNAMES names 2"),
    ],
)
def test_an_environment_that_does_not_fit_the_descriptors_is_refused(environ: dict[str, str], reason: str) -> None:
    with listener() as sock:
        assert activated([sock.fileno()], {"LISTEN_PID": "SELF", **environ})["refused"] == reason


def test_without_socket_activation_there_are_no_sockets() -> None:
    assert systemd.listen_fds({}, os.getpid()) == []
    assert systemd.listen_fds({"LISTEN_PID": str(os.getpid())}, os.getpid()) == []
    assert systemd.listen_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}, os.getpid()) == []
    assert isinstance(
        systemd.listen_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}, os.getpid()), SocketsRefused
    )


def test_forgetting_leaves_other_variables_alone() -> None:
    environ = {
        "NOTIFY_SOCKET": "/run/x",
        "WATCHDOG_USEC": "1",
        "LISTEN_FDS": "1",
        "LISTEN_ADDRESS": "::",
        "PATH": "/bin",
    }
    systemd.forget(environ)
    assert environ == {"LISTEN_ADDRESS": "::", "PATH": "/bin"}


# ---- JOURNAL_STREAM


def test_a_descriptor_is_the_journal_only_if_it_is_the_very_stream() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as elsewhere:
        found = os.fstat(ours.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert systemd.is_journal(environ, ours.fileno())
        assert not systemd.is_journal(environ, theirs.fileno())
        assert not systemd.is_journal(environ, elsewhere.fileno())
        assert not systemd.is_journal({}, ours.fileno())


@pytest.mark.parametrize("value", ["", ":", "8:", ":8", "8", "a:b", "-1:2", "1:2:3", "٣:٣"])
def test_a_stream_that_is_not_two_numbers_is_not_the_journal(value: str) -> None:
    assert not systemd.is_journal({"JOURNAL_STREAM": value}, 0)


def test_a_closed_descriptor_is_not_the_journal() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    found = os.fstat(reading)
    os.close(reading)
    assert not systemd.is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, reading)
