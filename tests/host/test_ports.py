"""A claimed port is free for one group's workers and for nobody else: real sockets, real processes."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from supervisor.host import ports
from supervisor.host.ports import PortClaim, PortRefused, claim_port, renew

Claim = Callable[..., PortClaim]


@pytest.fixture
def chance() -> random.Random:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def claimed(chance: random.Random) -> Iterator[Claim]:
    """Claim a port that must be there; released after the test."""
    with ExitStack() as stack:

        def claim(fixed: int = 0, rooms: list[range] | None = None) -> PortClaim:
            found = claim_port(fixed, chance=chance, rooms=rooms)
            assert isinstance(found, PortClaim), found.reason
            stack.callback(found.release)
            return found

        yield claim


@pytest.fixture
def free(claimed: Claim) -> int:
    """A port that is free and that no other test has."""
    claim = claimed()
    claim.release()
    return claim.port


def reason(answer: PortClaim | PortRefused) -> str:
    assert isinstance(answer, PortRefused)
    return answer.reason


def linger(port: int, *, reuse: bool) -> None:
    """Leave a connection of ``port`` in TIME_WAIT on the listener's side."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""


def test_a_worker_binds_its_claimed_port_with_or_without_reuseaddr(claimed: Claim) -> None:
    for reuse in (0, 1):
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, ""), (socket.AF_INET6, "::")):
            with socket.socket(family) as worker:
                worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                worker.bind((address, claimed().port))
                worker.listen()


def test_a_chosen_port_is_never_one_that_the_kernel_gives_to_connections(claimed: Claim) -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        first, last = (int(word) for word in file.read().split())
    for _ in range(200):
        port = claimed().port
        assert 1024 <= port < first or last < port
        assert port not in ports.SPOKEN_FOR


def test_a_claimed_port_is_not_given_twice_in_one_process(claimed: Claim, chance: random.Random) -> None:
    claim = claimed()
    assert reason(claim_port(claim.port, chance=chance)) == (
        f"port {claim.port} is claimed by another group or another rankd on this host"
    )
    room = [range(claim.port, claim.port + 1)]
    assert reason(claim_port(chance=chance, rooms=room)) == (
        "no port is free: all 1 that may be chosen are claimed or in use"
    )


def test_a_room_is_used_to_its_last_port_before_the_next_one(claimed: Claim, chance: random.Random, free: int) -> None:
    rooms = [range(free, free + 3), range(free + 3, free + 5)]
    usable = {
        port
        for room in rooms
        for port in room
        if port not in ports.SPOKEN_FOR and ports._taken(port, shared=False) is None
    }
    chosen = [claimed(rooms=rooms).port for _ in usable]
    assert set(chosen) == usable
    assert [port >= free + 3 for port in chosen] == sorted(port >= free + 3 for port in chosen)
    assert "no port is free" in reason(claim_port(chance=chance, rooms=rooms))


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_port_that_somebody_listens_on_is_not_chosen_and_not_given(
    chance: random.Random, free: int, address: str
) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, free))
        server.listen()
        assert "no port is free" in reason(claim_port(chance=chance, rooms=[range(free, free + 1)]))
        assert reason(claim_port(free, chance=chance)) == f"port {free} is in use on this host by another program"


def test_a_port_of_an_outgoing_connection_is_not_chosen(chance: random.Random, free: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.bind(("127.0.0.1", free))
        client.connect(server.getsockname())
        assert "no port is free" in reason(claim_port(chance=chance, rooms=[range(free, free + 1)]))


def test_a_port_in_time_wait_is_not_chosen(chance: random.Random, free: int) -> None:
    linger(free, reuse=True)
    assert "no port is free" in reason(claim_port(chance=chance, rooms=[range(free, free + 1)]))


def test_a_fixed_port_in_time_wait_is_given_where_reuseaddr_gets_past_it(claimed: Claim, free: int) -> None:
    linger(free, reuse=True)
    assert claimed(free).still_free()
    with socket.create_server(("127.0.0.1", free)):
        pass


def test_a_fixed_port_whose_connections_nobody_can_get_past_is_refused(chance: random.Random, free: int) -> None:
    linger(free, reuse=False)
    assert "in use" in reason(claim_port(free, chance=chance))


def test_a_fixed_port_may_be_a_well_known_one(claimed: Claim) -> None:
    port = next(port for port in sorted(ports.SPOKEN_FOR) if ports._taken(port, shared=True) is None)
    claim = claimed(port)
    assert (claim.port, claim.fixed) == (port, True)


def test_a_released_port_may_be_claimed_again(claimed: Claim) -> None:
    claim = claimed()
    claim.release()
    claim.release()
    assert claimed(claim.port).port == claim.port


def test_renewing_keeps_a_port_that_is_still_free(claimed: Claim, chance: random.Random) -> None:
    claim = claimed()
    assert claim.still_free()
    assert renew(claim, chance=chance) is claim


@pytest.mark.parametrize("waiting", [True, False])
def test_renewing_a_port_that_is_not_free_any_more_gives_another_and_releases_the_first(
    claimed: Claim, chance: random.Random, waiting: bool
) -> None:
    claim = claimed()
    with ExitStack() as stack:
        if waiting:
            linger(claim.port, reuse=True)
        else:
            stack.enter_context(socket.create_server(("127.0.0.1", claim.port)))
        assert not claim.still_free()
        another = renew(claim, chance=chance)
        assert isinstance(another, PortClaim)
        with closing(socket.socket(socket.AF_UNIX)) as name:
            name.bind(f"\0rankd/master-port/{claim.port}")
        assert another.port != claim.port
        assert another.still_free()
        another.release()


def test_a_fixed_port_is_not_exchanged_and_stays_claimed_while_it_is_in_use(
    claimed: Claim, chance: random.Random, free: int
) -> None:
    claim = claimed(free)
    with socket.create_server(("127.0.0.1", free)):
        assert reason(renew(claim, chance=chance)) == f"port {free} is in use on this host by another program"
        assert "claimed by another group" in reason(claim_port(free, chance=chance))
    assert renew(claim, chance=chance) is claim


def test_asking_leaves_nothing_behind_in_the_way_of_a_worker(claimed: Claim) -> None:
    claim = claimed()
    for _ in range(100):
        assert claim.still_free()
    with socket.socket() as worker:
        worker.bind(("0.0.0.0", claim.port))


def test_no_descriptors_left_is_a_refusal_with_words(chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socket", exhausted)
    assert reason(claim_port(chance=chance)) == "no port can be claimed: Too many open files"
    assert reason(claim_port(29500, chance=chance)) == "port 29500 cannot be used: Too many open files"


# ---- other processes

_CLAIMER = """
import random, sys
from supervisor.host.ports import PortClaim, claim_port
seed, first, last, number = (int(word) for word in sys.argv[1:])
chance = random.Random(seed)
sys.stdin.readline()
claims = [claim_port(chance=chance, rooms=[range(first, last)]) for _ in range(number)]
print(*(claim.port if isinstance(claim, PortClaim) else claim.reason for claim in claims), flush=True)
sys.stdin.readline()
"""


def claimer(seed: int, first: int, last: int, number: int) -> subprocess.Popen[str]:
    """An interpreter that waits for a line, claims ``number`` ports, tells them and holds them until the next line."""
    return subprocess.Popen(
        [sys.executable, "-c", _CLAIMER, *map(str, (seed, first, last, number))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_daemons_that_choose_at_the_same_time_by_the_same_chance_never_choose_the_same() -> None:
    with ExitStack() as stack:
        daemons = [stack.enter_context(claimer(1, 20_000, 21_000, 100)) for _ in range(4)]
        for daemon in daemons:
            go(daemon)
        chosen = [port for daemon in daemons for port in told(daemon)]
        for daemon in daemons:
            go(daemon)
    assert len(chosen) == len(set(chosen)) == 400
    assert [daemon.returncode for daemon in daemons] == [0] * 4


def test_the_kernel_releases_the_claim_of_a_daemon_that_is_killed(chance: random.Random, free: int) -> None:
    with claimer(1, free, free + 1, 1) as daemon:
        go(daemon)
        assert told(daemon) == [free]
        assert "claimed by another group or another rankd" in reason(claim_port(free, chance=chance))
        daemon.send_signal(signal.SIGKILL)
    claim = claim_port(free, chance=chance)
    assert isinstance(claim, PortClaim)
    claim.release()


def test_a_worker_does_not_inherit_the_claim(claimed: Claim) -> None:
    claim = claimed()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as worker:
        claim.release()
        assert claimed(claim.port).port == claim.port
        worker.kill()


# ---- where ports are chosen


def kernel(folder: Path, port_range: str | None = None, reserved: str | None = None) -> str:
    """A stand-in for /proc/sys/net/ipv4; returns its path."""
    for name, text in (("ip_local_port_range", port_range), ("ip_local_reserved_ports", reserved)):
        if text is not None:
            (folder / name).write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("port_range", "best"),
    [
        ("32768\t60999\n", range(10_000, 30_000)),
        ("20000 60999\n", range(10_000, 20_000)),
        ("10000 60999\n", range(61_000, 65_536)),
        ("10000 65535\n", range(1024, 10_000)),
        ("1024 65535\n", range(1024, 65_536)),
        ("500 65535\n", range(1024, 65_536)),
        (None, range(10_000, 30_000)),
    ],
)
def test_the_best_room_is_beside_the_ephemeral_ports(tmp_path: Path, port_range: str | None, best: range) -> None:
    rooms = ports.port_rooms(kernel(tmp_path, port_range))
    assert rooms[0] == best
    everything = [port for room in rooms for port in room]
    assert sorted(everything) == list(range(1024, 65_536)), "every unprivileged port is in just one room"


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        (None, ()),
        ("\n", ()),
        ("8080\n", (range(8080, 8081),)),
        ("8080,9148-9200\n", (range(8080, 8081), range(9148, 9201))),
    ],
)
def test_ports_set_aside_by_the_administrator_are_read(
    tmp_path: Path, text: str | None, ranges: tuple[range, ...]
) -> None:
    assert ports.reserved_ports(kernel(tmp_path, reserved=text)) == ranges


def test_ports_set_aside_by_the_administrator_are_not_chosen(
    chance: random.Random, claimed: Claim, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "reserved_ports", lambda: (range(free, free + 1),))
    assert "all 0 that may be chosen" in reason(claim_port(chance=chance, rooms=[range(free, free + 1)]))
    assert claimed(free).port == free, "asked for by number it is given"
