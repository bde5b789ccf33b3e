"""Addresses: how they are written, claimed, refused and given back."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from supervisor.errors import UNAVAILABLE, AddressUnavailable
from supervisor.report.listen import Address, BoundListener, adopt, bind, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:8080", Address("::1", 8080)),
        (":8080", Address("", 8080)),
        ("unix:/run/rankd/health.sock", Address(path="/run/rankd/health.sock")),
    ],
)
def test_an_address_is_read_as_it_is_written(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("8080", "host:port"),
        ("127.0.0.1", "host:port"),
        ("127.0.0.1:http", "host:port"),
        ("127.0.0.1:70000", "host:port"),
        ("127.0.0.1:-1", "host:port"),
        ("127.0.0.1:٣", "host:port"),
        ("::1:8080", r"\[::1\]:8080"),
        ("unix:health.sock", "absolute"),
        ("unix:", "absolute"),
        ("", "host:port"),
    ],
)
def test_a_malformed_address_says_what_is_expected(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_address(text)
    with pytest.raises(AddressUnavailable, match=r"^health listener: "):
        bind([text])


def close(*listeners: BoundListener) -> None:
    for listener in listeners:
        listener.close()


def test_port_0_picks_one_and_says_which() -> None:
    (listener,) = bind(["127.0.0.1:0"])
    host, port = listener.name.split(":")
    assert (host, int(port) > 0) == ("127.0.0.1", True)
    close(listener)


def test_a_taken_port_is_refused_with_its_address_and_exit_code() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressUnavailable) as refusal:
            bind([address])
    assert str(refusal.value) == f"health listener: {address}: Address already in use"
    assert refusal.value.exit_code == UNAVAILABLE


def test_a_port_that_is_claimed_and_not_yet_listening_is_taken_for_everybody_else() -> None:
    (first,) = bind(["127.0.0.1:0"])
    with pytest.raises(AddressUnavailable, match="Address already in use"):
        bind([first.name])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(_place(first), timeout=5)
    first.listen()
    socket.create_connection(_place(first), timeout=5).close()
    close(first)


def test_a_port_is_free_again_at_once_though_connections_linger() -> None:
    (first,) = bind(["127.0.0.1:0"])
    first.listen()
    with socket.create_connection(_place(first), timeout=5) as client:
        accepted, _ = first.socket.accept()
        accepted.close()  # the side that closes first is the one that keeps TIME-WAIT
        assert client.recv(1) == b""
    name = first.name
    close(first)
    (second,) = bind([name])
    second.listen()
    socket.create_connection(_place(second), timeout=5).close()
    close(second)


def _place(listener: BoundListener) -> tuple[str, int]:
    host, port = listener.name.rsplit(":", 1)
    return host, int(port)


def test_all_addresses_are_claimed_or_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        with pytest.raises(AddressUnavailable):
            bind([name, f"127.0.0.1:{taken.getsockname()[1]}"])
        close(*bind([name]))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(AddressUnavailable, match=r": 192\.0\.2\.1:8080: Cannot assign requested address"):
        bind(["192.0.2.1:8080"])


def test_a_name_that_nobody_has_is_refused() -> None:
    with pytest.raises(AddressUnavailable, match=r"health listener: nobody\.invalid:8080: "):
        bind(["nobody.invalid:8080"])


def test_a_name_stands_for_the_addresses_that_this_machine_has() -> None:
    listeners = bind(["localhost:0"])
    assert listeners
    assert {listener.name.rsplit(":", 1)[0] for listener in listeners} <= {"127.0.0.1", "[::1]"}
    close(*listeners)


def test_a_unix_socket_is_for_owner_and_group_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0o077, 0o000):
        path = tmp_path / f"{umask:o}.sock"
        before = os.umask(umask)
        try:
            (listener,) = bind([f"unix:{path}"])
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert listener.name == f"unix:{path}"
        close(listener)
        assert not path.exists()


def test_a_unix_socket_that_nobody_answers_on_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "health.sock")
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(path)
    (listener,) = bind([f"unix:{path}"])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    close(listener)


def test_a_unix_socket_that_somebody_answers_on_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "health.sock")
    (first,) = bind([f"unix:{path}"])
    with pytest.raises(AddressUnavailable, match="Address already in use"):
        bind([f"unix:{path}"])
    assert os.path.exists(path)
    close(first)


def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(AddressUnavailable, match="Address already in use"):
        bind([f"unix:{path}"])
    assert path.read_text() == "data"


def test_a_path_that_cannot_be_is_refused_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(AddressUnavailable, match=r"nowhere/health\.sock: No such file"):
        bind([f"unix:{tmp_path}/nowhere/health.sock"])
    with pytest.raises(AddressUnavailable, match="too long"):
        bind([f"unix:/{'x' * 200}"])


def test_the_file_that_a_successor_has_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "health.sock"
    (first,) = bind([f"unix:{path}"])
    path.unlink()
    (second,) = bind([f"unix:{path}"])
    close(first)
    assert path.exists()
    close(second)
    assert not path.exists()


def test_sockets_that_were_passed_in_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "passed.sock"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        names = [listener.name for listener in adopt([tcp, unix])]
        assert names == [f"127.0.0.1:{tcp.getsockname()[1]}", f"unix:{path}"]
        close(*adopt([unix]))
        assert path.exists(), "systemd made it, systemd removes it"


def test_a_socket_of_the_wrong_kind_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, socket.socket() as deaf:
        datagram.bind(("127.0.0.1", 0))
        deaf.bind(("127.0.0.1", 0))
        for wrong in (datagram, deaf):
            with pytest.raises(AddressUnavailable, match="not a listening stream socket"):
                adopt([wrong])
