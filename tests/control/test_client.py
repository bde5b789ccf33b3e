"""Who asks a daemon: where it is looked for, and a stream of records that is broken off."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.control.client import Daemon, Forbidden, Stream, Unreachable


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="rankd-") as path:
        yield Path(path)


def listening(path: Path) -> socket.socket:
    wire = socket.socket(socket.AF_UNIX)
    wire.bind(str(path))
    wire.listen()
    return wire


def places(folder: Path) -> dict[str, str]:
    (folder / "a").mkdir()
    (folder / "b/rankd").mkdir(parents=True)
    return {"RUNTIME_DIRECTORY": str(folder / "a"), "XDG_RUNTIME_DIR": str(folder / "b")}


def test_a_socket_that_a_killed_daemon_has_left_hides_no_other(short_path: Path) -> None:
    environ = places(short_path)
    listening(short_path / "a/control.sock").close()
    with closing(listening(short_path / "b/rankd/control.sock")):
        assert Daemon.find(None, environ).path == str(short_path / "b/rankd/control.sock")


def test_where_nobody_listens_all_places_are_named(short_path: Path) -> None:
    with pytest.raises(Unreachable, match="a/control.sock or .*b/rankd/control.sock or /run/rankd/control.sock"):
        Daemon.find(None, places(short_path))


def test_somebody_who_may_not_look_is_told_so_and_not_that_nobody_is_there(short_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else for a moment")
    environ = places(short_path)
    with closing(listening(short_path / "a/control.sock")):
        (short_path / "a").chmod(0o700)
        short_path.chmod(0o711)
        os.seteuid(65534)
        try:
            with pytest.raises(Forbidden, match="may not connect"):
                Daemon.find(None, environ)
        finally:
            os.seteuid(0)


class Server:
    """Answers one connection after the other by what it is given: a status, or records before it hangs up."""

    def __init__(self, path: Path, *answers: Callable[[str], bytes]) -> None:
        self.asked: list[str] = []
        self._wire = listening(path)
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    def _serve(self, answers: tuple[Callable[[str], bytes], ...]) -> None:
        for answer in answers:
            client, _ = self._wire.accept()
            with client:
                self.asked.append(client.recv(4096).decode().split()[1])
                client.sendall(answer(self.asked[-1]))
        self._wire.close()

    def join(self) -> None:
        self._thread.join(20)


def told(seq: int) -> Callable[[str], bytes]:
    body = json.dumps({"seq": seq})
    return lambda _: f"HTTP/1.0 200 OK\r\n\r\n{body}".encode()


def records(*numbers: int) -> Callable[[str], bytes]:
    text = "".join(f'id: {number}\ndata: {{"seq": {number}, "event": "x"}}\n\n' for number in numbers)
    return lambda _: f"HTTP/1.0 200 OK\r\n\r\n{text}".encode()


def test_a_stream_that_is_cut_off_goes_on_where_it_was(short_path: Path) -> None:
    server = Server(short_path / "s", records(5, 6), told(7), records(7))
    with Stream(Daemon(str(short_path / "s")), 4) as stream:
        seen = [record["seq"] for _ in range(2) for record in stream.read()]
        with pytest.raises(Unreachable, match="the daemon has ended"):
            stream.read()
    server.join()
    assert seen == [5, 6, 7]
    assert server.asked == ["/events?since=4", "/status", "/events?since=6"]


def test_another_daemon_in_its_place_is_not_taken_for_it(short_path: Path) -> None:
    server = Server(short_path / "s", records(5), told(2))
    with Stream(Daemon(str(short_path / "s")), 4) as stream:
        assert [record["seq"] for record in stream.read()] == [5]
        with pytest.raises(Unreachable, match="the daemon has ended"):
            stream.read()
    server.join()
